"""What is measured of the embeddings of one run: the content of the metrics files and the pictures of the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.evaluation import plots
from naics_pipeline.evaluation.baselines import Baseline
from naics_pipeline.evaluation.compare import compare_scores, failures, gate, intervals, paired_bootstrap
from naics_pipeline.evaluation.explorer.texts import SearchedTexts
from naics_pipeline.evaluation.retrieval import BRIEF, TextScores, evaluate_texts
from naics_pipeline.evaluation.runs.scores import scores_frame, scores_of_texts, text_keys
from naics_pipeline.evaluation.structure import (
    StructureScores,
    ceiling,
    embedding_distances,
    evaluate_codes,
)
from naics_pipeline.evaluation.tasks import embedding_tasks
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.smoothing import smooth
from naics_pipeline.scorers.ensemble import BLEND, BLEND_WITHOUT
from naics_pipeline.scorers.scorer import Scorer
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned

FOLLOWED = ("train/loss", "val/loss", "val/query_top1", "cophenetic_correlation", "parent_retrieval@1")
"""What the training curves show of a stage."""


def variants(text: Embeddings, refined: Embeddings, tree: Tree, smoothing_rounds: int) -> dict[str, Embeddings]:
    """Text, smoothed and, where there are such, refined embeddings, in the order of the tree's codes.

    Raises:
        ModelError: the refined points say that they were made from other points of the text model.
    """
    made_from, space = refined.metadata.get("made_from"), text.metadata.get("space")
    if made_from and space and made_from != space:
        raise ModelError(
            f"the refined embeddings were made from version {made_from} of the text embeddings, which are now version "
            f"{space}: materialize refined_embeddings again before they are compared."
        )
    text, refined = (replace(aligned(space, tree), columns=pl.DataFrame()) for space in (text, refined))
    found = {"text": text, "smoothed": replace(text, points=smooth(text, tree, smoothing_rounds))}
    return found if refined.is_unrefined else {**found, "refined": refined}


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        content: of the metrics file.
        scores: space → the scores that its metrics are means of, as `runs.scores.scores_frame` gives them.
        failed_gate: what the refined points lost, in words; empty where nothing.
    """

    content: dict[str, Any]
    scores: dict[str, pl.DataFrame]
    failed_gate: str = ""


def measure(
    space: Embeddings,
    queries: Embeddings,
    tree: Tree,
    cutoffs: Sequence[int],
    places: Embeddings | None = None,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Every metric of a space, of its codes against the tree and of texts by each read-out, and their intervals.

    Args:
        queries, places: as in `retrieval.evaluate_texts`.
    """
    structure, found = evaluate_codes(space, tree, cutoffs=cutoffs), evaluate_texts(space, queries, places)
    return structure.metrics | found.metrics, intervals(_scores(structure, found, tree, queries)) | found.intervals


def measure_text(
    text: Embeddings,
    queries: Embeddings,
    tree: Tree,
    *,
    baselines: Mapping[str, Baseline],
    cutoffs: Sequence[int],
    seed: int,
    places: Embeddings | None = None,
    labelled: Embeddings | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> Evaluated:
    """Text_metrics.json: the text model's metrics, baselines beside them, and what the tree itself reaches.

    With scorers beyond the space's own, `comparisons` says of each what the blend of all gains by it over the blend
    without it, held-out entry by entry.

    Args:
        queries, places, labelled, scorers: as in `retrieval.evaluate_texts`.
        baselines: rows of `evaluation.baselines.baselines`; empty where they were not asked for.
        seed: of the bootstrap and of the tasks' folds.
    """
    structure = _of_codes(text, tree, cutoffs, seed)
    found = evaluate_texts(text, queries, places, labelled, scorers)
    scores = {"text": _scores(structure, found, tree, queries, labelled)}
    scores |= {name: baseline.scores for name, baseline in baselines.items()}
    spans = {name: intervals(frame) for name, frame in scores.items()}
    spans["text"] |= found.intervals
    content = {
        "queries": held_out_count(found),
        "measured": {"text": provenance(text)},
        "text": structure.metrics | found.metrics,
        "intervals": spans,
        "baselines": {name: dict(baseline.metrics) for name, baseline in baselines.items()},
        "ceiling": ceiling(tree, cutoffs=cutoffs),
        "comparisons": blend_comparisons(found.held_out, seed),
    }
    return Evaluated(content, scores)


def blend_comparisons(by_query: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, Any]]:
    """blend_without_{scorer}/{score} → fields of `Comparison`: the blend of all against the one without the scorer."""
    compared = {}
    for name, scores in by_query.items():
        row, _, score = name.rpartition("/")
        if row.startswith(BLEND_WITHOUT) and score in BRIEF:
            compared[name] = asdict(paired_bootstrap(scores, by_query[f"{BLEND}/{score}"], seed=seed))
    return compared


def measure_refined(
    spaces: Mapping[str, Embeddings],
    queries: Mapping[str, Embeddings],
    tree: Tree,
    *,
    cutoffs: Sequence[int],
    seed: int,
) -> Evaluated:
    """Refined_metrics.json: refined and smoothed metrics, the gate, and refined against text by score.

    Where nothing was refined there are the smoothed metrics alone.

    All are searched by the codes' points. The refined space has no other read-out: the query map keeps the order of
    codes about a text and no distances, so a place that it moves lies no nearer to one text than to another.

    Args:
        spaces: as `variants` gives them.
        queries: the same entries in the space of "text", in which smoothed points lie, too, and of "refined".
        seed: of the bootstrap and of the tasks' folds.
    """
    asked = {name: queries["refined" if name == "refined" else "text"] for name in spaces}
    structure = {name: _of_codes(space, tree, cutoffs, seed) for name, space in spaces.items()}
    found = {name: evaluate_texts(spaces[name], points) for name, points in asked.items()}
    others = [name for name in spaces if name != "text"]
    scores = {name: _scores(structure[name], found[name], tree, asked[name]) for name in others}
    rules, compared = [], {}
    if "refined" in spaces:
        compared = compare_scores(structure["text"].by_code, structure["refined"].by_code, seed=seed)
        compared |= compare_scores(found["text"].held_out, found["refined"].held_out, seed=seed)
        rules = gate(structure["text"].metrics, structure["refined"].metrics)
    content = {
        "queries": held_out_count(found["text"]),
        "measured": {name: provenance(spaces[name]) for name in others},
        **{name: structure[name].metrics | found[name].metrics for name in others},
        "intervals": {name: intervals(frame) for name, frame in scores.items()},
        "gate": [asdict(rule) for rule in rules],
        "comparisons": {name: asdict(comparison) for name, comparison in compared.items()},
    }
    return Evaluated(content, scores, failures(rules))


def _of_codes(space: Embeddings, tree: Tree, cutoffs: Sequence[int], seed: int) -> StructureScores:
    """How the codes lie to one another, and what that is good for."""
    structure, tasks = evaluate_codes(space, tree, cutoffs=cutoffs), embedding_tasks(space, tree, seed=seed)
    return StructureScores(structure.metrics | tasks.metrics, structure.by_code | tasks.by_code)


def provenance(space: Embeddings) -> dict[str, Any]:
    """What points say of their origin: space, made_from, stage, run_id, and the origin as it was written."""
    return {name: json.loads(value) if name == "origin" else value for name, value in space.metadata.items()}


def _scores(
    structure: StructureScores,
    found: TextScores,
    tree: Tree,
    queries: Embeddings,
    labelled: Embeddings | None = None,
) -> pl.DataFrame:
    """Every score of a space by code or text; validation and unrepeated entries in brief."""
    texts = scores_of_texts(found, _text_keys(queries), None if labelled is None else _text_keys(labelled))
    return pl.concat([scores_frame(tree.codes, structure.by_code), texts])


def _text_keys(texts: Embeddings) -> pl.Series:
    return text_keys(texts.codes.tolist(), texts.columns["text"].to_list())


def held_out_count(found: TextScores) -> int:
    """How many of the queries results are reported on."""
    return int(found.queries.held_out.sum())


def draw(
    spaces: Mapping[str, Embeddings],
    tree: Tree,
    titles: Mapping[str, str],
    *,
    stages: Mapping[str, Sequence[Mapping[str, float]]],
    refinement: Sequence[Mapping[str, float]],
    hardness: pl.DataFrame,
    texts: SearchedTexts | None = None,
) -> dict[str, bytes]:
    """The pictures of the report as PNG, by the names it knows.

    Args:
        spaces: as `variants` gives them.
        stages: stage → its epochs.
        refinement: epochs of the graph model.
        hardness: the hardness table of the triplets.
        texts: held-out texts with their answers, none where there are none.
    """
    distances = {name: distances_of(space) for name, space in spaces.items()}
    radii = {name: radii_of(space) for name, space in spaces.items()}
    disks = {
        f"poincare_disk_{name}": plots.poincare_disk(distances[name], radii[name], tree, titles, name=name)
        for name in ("refined", "text")
        if name in spaces
    }
    if refinement:
        disks["refinement_curves"] = plots.training_curves({"graph": refinement})
    if texts:
        disks["confusion"] = plots.confusion(*texts.confusion(), titles)
        disks["risk_coverage"] = plots.risk_coverage({level: texts.answers(level) for level in LEVELS})
    return disks | {
        "distance_scatter": plots.distance_scatter(distances, tree),
        "radius_by_level": plots.radius_by_level(radii, tree),
        "training_curves": plots.training_curves(stages, FOLLOWED),
        "hardness_histogram": plots.hardness_histogram(hardness),
    }


def radii_of(space: Embeddings) -> np.ndarray:
    """(N,) distance of each point from the origin."""
    if space.geometry == "euclidean":
        return np.linalg.norm(space.points, axis=1)
    return lorentz.radius(torch.from_numpy(space.points), curvature=space.curvature).numpy()


def distances_of(space: Embeddings) -> np.ndarray:
    """(N, N) float64, in the order of the rows."""
    return embedding_distances(space.points, space.curvature, space.geometry)
