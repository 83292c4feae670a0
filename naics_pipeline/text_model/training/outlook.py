"""What the curriculum has to know of the model before an epoch: how far apart codes are, and their clusters."""

import logging

import torch

from naics_pipeline.geometry.kmeans import kmeans
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training.batches import Plan
from naics_pipeline.text_model.training.processes import of_leader, told
from naics_pipeline.text_model.training.tables import TextTables

logger = logging.getLogger(__name__)


@torch.no_grad()
def prepare(state: CurriculumState, plan: Plan, model: TextModel, tables: TextTables) -> None:
    """Brings the state to its epoch: says which phase begins, and looks at all codes as far as that phase needs it."""
    phase, policy = state.phase(plan.stage), plan.policy(state)
    before = CurriculumState(epoch=state.epoch - 1, epochs=state.epochs)
    if state.epoch and before.phase(plan.stage) != phase:
        logger.info("%s epoch %d: phase %s begins", plan.stage.name, state.epoch + 1, phase.name)
    rule, needs = phase.false_negatives, policy.needs if policy else frozenset()
    clusters_now = rule is not None and (state.clusters is None or state.epoch % rule.every == 0)
    if not needs and not clusters_now:
        return
    model.eval()
    said = tables.code_vectors()
    points, gate = model.fusion(said.channels, said.present, model.offset)
    if "points" in needs:
        state.see("points", of_leader(model.fusion.distances(points, points).float()).cpu().numpy())
    if "gates" in needs and gate is not None:
        # Hellinger distance, of probabilities.
        root = gate.float().sqrt()
        state.see("gates", of_leader(torch.cdist(root, root)).cpu().numpy())
    if rule is not None and clusters_now:
        curvature = float(model.fusion.curvature)
        found = told(kmeans(points.cpu(), rule.clusters, seed=plan.settings.seed + state.epoch, curvature=curvature))
        state.clusters = found.cluster.numpy()
        size = torch.bincount(found.cluster, minlength=rule.clusters)
        logger.info(
            "%s epoch %d: %d clusters of %d to %d codes in %d steps",
            plan.stage.name,
            state.epoch + 1,
            rule.clusters,
            int(size.min()),
            int(size.max()),
            found.steps,
        )
