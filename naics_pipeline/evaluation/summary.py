"""What is measured of the embeddings of one run: the content of the metrics files and the pictures of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from naics_pipeline.evaluation import plots
from naics_pipeline.evaluation.compare import compare_scores, gate, paired_bootstrap
from naics_pipeline.evaluation.retrieval import BRIEF, Queries, evaluate_texts
from naics_pipeline.evaluation.structure import (
    ceiling,
    code_scores,
    embedding_distances,
    evaluate_embeddings,
)
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.refine import aligned
from naics_pipeline.graph_model.smoothing import smooth
from naics_pipeline.scorers.ensemble import BLEND, BLEND_WITHOUT
from naics_pipeline.scorers.scorer import Scorer
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

FOLLOWED = ("train/loss", "val/loss", "val/query_top1", "cophenetic_correlation", "parent_retrieval@1")
"""What the training curves show of a stage."""


def variants(text: Embeddings, refined: Embeddings, tree: Tree, smoothing_rounds: int) -> dict[str, Embeddings]:
    """Text, smoothed and refined embeddings, in the order of the tree's codes."""
    text, refined = aligned(text, tree), aligned(refined, tree)
    return {"text": text, "smoothed": replace(text, points=smooth(text, tree, smoothing_rounds)), "refined": refined}


def measure(
    space: Embeddings,
    queries: Embeddings,
    tree: Tree,
    cutoffs: Sequence[int],
    places: Embeddings | None = None,
) -> dict[str, float]:
    """Every metric of a space: of its codes against the tree, and of texts searched in it by each read-out.

    Args:
        queries, places: as in `retrieval.evaluate_texts`.
    """
    found = evaluate_texts(space, queries, places)
    return evaluate_embeddings(space, tree=tree, cutoffs=cutoffs) | found.metrics


def measure_text(
    text: Embeddings,
    queries: Embeddings,
    tree: Tree,
    *,
    baselines: Mapping[str, Mapping[str, float]],
    cutoffs: Sequence[int],
    seed: int,
    places: Embeddings | None = None,
    labelled: Embeddings | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """Content of text_metrics.json: the text model's metrics, baselines beside them, and what the tree itself reaches.

    With scorers beyond the space's own, `comparisons` says of each what the blend of all gains by it over the blend
    without it, held-out entry by entry.

    Args:
        queries, places, labelled, scorers: as in `retrieval.evaluate_texts`.
        baselines: rows of `evaluation.baselines.baselines`; empty where they were not asked for.
        seed: of the bootstrap.
    """
    found = evaluate_texts(text, queries, places, labelled, scorers)
    return {
        "queries": held_out_count(queries),
        "text": evaluate_embeddings(text, tree=tree, cutoffs=cutoffs) | found.metrics,
        "baselines": dict(baselines),
        "ceiling": ceiling(tree, cutoffs=cutoffs),
        "comparisons": blend_comparisons(found.by_query, seed),
    }


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
) -> dict[str, Any]:
    """Content of refined_metrics.json: refined and smoothed metrics, the gate, and refined against text by score.

    Both are searched by the codes' points. The refined space has no other read-out: the query map keeps the order of
    codes about a text and no distances, so a place that it moves lies no nearer to one text than to another.

    Args:
        spaces: as `variants` gives them.
        queries: the same entries in the space of "text" and of "refined".
        seed: of the bootstrap.
    """
    structure = {name: evaluate_embeddings(space, tree=tree, cutoffs=cutoffs) for name, space in spaces.items()}
    found = {name: evaluate_texts(spaces[name], points) for name, points in queries.items()}
    by_code = {name: code_scores(distances_of(spaces[name]), tree, cutoffs=cutoffs) for name in queries}
    compared = compare_scores(by_code["text"], by_code["refined"], seed=seed)
    compared |= compare_scores(found["text"].by_query, found["refined"].by_query, seed=seed)
    return {
        "queries": held_out_count(queries["refined"]),
        "refined": structure["refined"] | found["refined"].metrics,
        "smoothed": structure["smoothed"],
        "gate": [asdict(rule) for rule in gate(structure["text"], structure["refined"])],
        "comparisons": {name: asdict(comparison) for name, comparison in compared.items()},
    }


def held_out_count(queries: Embeddings) -> int:
    """How many of the queries results are reported on."""
    return int(np.count_nonzero(Queries.of(queries.codes, queries.columns).held_out))


def draw(
    spaces: Mapping[str, Embeddings],
    tree: Tree,
    titles: Mapping[str, str],
    *,
    stages: Mapping[str, Sequence[Mapping[str, float]]],
    refinement: Sequence[Mapping[str, float]],
    hardness: pl.DataFrame,
) -> dict[str, bytes]:
    """The pictures of the report as PNG, by the names it knows.

    Args:
        spaces: as `variants` gives them.
        stages: stage → its epochs.
        refinement: epochs of the graph model.
        hardness: the hardness table of the triplets.
    """
    distances = {name: distances_of(space) for name, space in spaces.items()}
    radii = {
        name: lorentz.radius(torch.from_numpy(space.points), curvature=space.curvature).numpy()
        for name, space in spaces.items()
    }
    disks = {
        f"poincare_disk_{name}": plots.poincare_disk(distances[name], radii[name], tree, titles, name=name)
        for name in ("refined", "text")
    }
    return disks | {
        "distance_scatter": plots.distance_scatter(distances, tree),
        "radius_by_level": plots.radius_by_level(radii, tree),
        "training_curves": plots.training_curves(stages, FOLLOWED),
        "refinement_curves": plots.training_curves({"graph": refinement}),
        "hardness_histogram": plots.hardness_histogram(hardness),
    }


def distances_of(space: Embeddings) -> np.ndarray:
    """(N, N) float64, in the order of the rows."""
    return embedding_distances(space.points, space.curvature, space.geometry)
