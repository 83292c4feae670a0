"""What an epoch is judged by: held-out pairs, validation entries, and how the tree lies in the space."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from naics_pipeline.text_model.losses.query import rank_of_truth
from naics_pipeline.text_model.losses.radius import level_radius
from naics_pipeline.text_model.losses.view import CodePairs, Queries, TreeTensors, View
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.training.batches import Plan
from naics_pipeline.text_model.training.tables import TextTables

# (N, N) distances between all codes to named metrics; the evaluation lies above this package.
Metrics = Callable[[np.ndarray], dict[str, float]]


class Validation(nn.Module):
    """Measures a model on what it did not train on.

    Args:
        metrics: of the distances between all codes.
    """

    counted: Tensor
    code: Tensor

    def __init__(self, plan: Plan, tree: TreeTensors, metrics: Metrics) -> None:
        super().__init__()
        self.tree, self.metrics, self.codes = tree, metrics, plan.inputs.tree.codes
        self.register_buffer("counted", torch.from_numpy(plan.hashed[~plan.inputs.left_out]), persistent=False)
        self.register_buffer("code", torch.from_numpy(plan.inputs.validation_code), persistent=False)

    @torch.no_grad()
    def forward(
        self, model: TextModel, objective: Objective, tables: TextTables, pairs: CodePairs | None
    ) -> dict[str, float]:
        """Named values, from tables that are fresh.

        Args:
            pairs: held-out ones.
        """
        points = model.code_points(tables.code_vectors(), self.codes)
        view = self._view(model, tables, pairs, points)
        terms = objective(view)
        values = {f"val/{name}": float(value) for name, value in terms.items()}
        values["val/loss"] = float(objective.total(terms)) if terms else 0.0
        values |= self._hits(view)
        exact = points.double() if points.device.type != "mps" else points.cpu().double()
        values |= self.metrics(model.fusion.distances(exact, exact).cpu().numpy())
        radii = level_radius(model.fusion.radii(points), self.tree.level)
        values |= {f"radius/level_{level}": radius for level, radius in radii.items()}
        return values | objective.logged() | {"curvature": float(model.fusion.curvature)}

    def _view(self, model: TextModel, tables: TextTables, pairs: CodePairs | None, points: Tensor) -> View:
        """Held-out pairs and validation entries: nothing that training saw."""
        queries = None
        if len(self.code):
            texts = model.fusion.place_texts(tables.validation.values)
            queries = Queries(texts, self.code, torch.full_like(self.code, -1))
        return View(
            space=model.fusion,
            tree=self.tree,
            points=points,
            gate=None,
            pairs=pairs,
            queries=queries,
            rows=self.tree.trained if bool(self.counted.any()) else self.tree.trained[:0],
            counted=self.counted,
            spread=None,
            unseen=None,
        )

    def _hits(self, view: View) -> dict[str, float]:
        if view.queries is None:
            return {}
        leaf = self.tree.leaf_of[self.code]
        distances = view.space.distances(view.queries.points, view.points[self.tree.leaves])
        rank = rank_of_truth(distances[leaf >= 0], leaf[leaf >= 0])
        return {"val/query_top1": float((rank < 1).float().mean()), "val/query_top5": float((rank < 5).float().mean())}
