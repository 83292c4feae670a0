"""How well distances between codes reproduce the tree: every metric over all N codes, in float64.

D is a matrix of distances, T the tree's own. Ties never depend on the order of rows: ranks are averaged, and what is
counted among the k nearest is counted as often as it would be on average over all orders of tied codes. A metric that
a taxonomy does not define (sector_auc of one sector, say) is NaN, null in JSON, never an arbitrary number.

What is asked of each code (its nearest codes, its parent, its edges) comes from blocks of rows of D and is exact at any
size. What is asked of all pairs is exact up to `EXACT_CODES` codes; above, see `PairHistogram`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from naics_pipeline.evaluation.distances import Distances, PointDistances, TreeDistances, embedding_distances
from naics_pipeline.evaluation.influence import pair_scores
from naics_pipeline.evaluation.neighbours import CUTOFFS, neighbour_scores, refuse_diverged
from naics_pipeline.evaluation.neighbours import code_scores as code_scores
from naics_pipeline.evaluation.pairs import PairHistogram, average_rank, exact_pair_metrics
from naics_pipeline.evaluation.pairs import pearson as pearson
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned

EXACT_CODES = 4096  # 8.4 million pairs; up to here their list and a matrix of all distances fit anywhere


@dataclass(frozen=True)
class StructureScores:
    """How well distances reproduce the tree.

    Attributes:
        metrics: by name.
        by_code: metric → (N,) what each code contributes, in the order of the tree's codes; NaN where it takes no part.
            The mean is the metric. Extremes and medians have no such scores.
    """

    metrics: dict[str, float]
    by_code: dict[str, np.ndarray]


def evaluate_embeddings(
    embeddings: Embeddings, *, tree: Tree | None = None, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """Every structure metric of an embeddings file, whatever the order of its rows: `evaluate_codes` without scores."""
    return _evaluated(embeddings, tree or Tree.from_codes(embeddings.codes.tolist()), cutoffs).metrics


def evaluate_codes(embeddings: Embeddings, tree: Tree, *, cutoffs: Sequence[int] = CUTOFFS) -> StructureScores:
    """Every structure metric of an embeddings file, and each code's part in it.

    Above `EXACT_CODES` codes no matrix of all pairs is held, and metrics over all pairs have no scores by code.

    Raises:
        ModelError: the file's codes are not those of the tree.
    """
    found = _evaluated(embeddings, tree, cutoffs)
    if len(tree) > EXACT_CODES:
        return found
    points = _points(embeddings, tree)
    by_code = pair_scores(embedding_distances(points, embeddings.curvature, embeddings.geometry), tree)
    return replace(found, by_code=found.by_code | by_code)


def _evaluated(embeddings: Embeddings, tree: Tree, cutoffs: Sequence[int]) -> StructureScores:
    """Metrics, and scores by code of those that are asked of each code.

    Args:
        tree: of the codes of the file.

    Raises:
        ModelError: the file's codes are not those of the tree.
    """
    points = _points(embeddings, tree)
    x = torch.from_numpy(points)
    if embeddings.geometry == "euclidean":
        radii, violation = np.linalg.norm(points, axis=1), None
    else:
        radii = lorentz.radius(x, curvature=embeddings.curvature).numpy()
        violation = float(lorentz.violation(x, curvature=embeddings.curvature).max())
    distances: Distances = PointDistances(points, embeddings.curvature, embeddings.geometry)
    if len(tree) <= EXACT_CODES:
        distances = embedding_distances(points, embeddings.curvature, embeddings.geometry)
    return structure_scores(distances, tree, radii=radii, violation=violation, cutoffs=cutoffs)


def _points(embeddings: Embeddings, tree: Tree) -> np.ndarray:
    return np.ascontiguousarray(aligned(embeddings, tree).points, dtype=np.float64)


def structure_metrics(distances: Distances, tree: Tree, **known: Any) -> dict[str, float]:
    """The metrics of `structure_scores`."""
    return structure_scores(distances, tree, **known).metrics


def structure_scores(
    distances: Distances,
    tree: Tree,
    *,
    radii: np.ndarray | None = None,
    violation: float | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    left_out: np.ndarray | None = None,
) -> StructureScores:
    """All metrics that compare distances with the tree, and scores by code of those that are asked of each code.

    Args:
        distances: (N, N) float64, symmetric, in the order of `tree.codes`; the diagonal is not read. Or
            `PointDistances`, of which no matrix is made above `EXACT_CODES` codes.
        radii: (N,) distance of each code from the origin; without it no radius metrics.
        violation: largest |c⟨x, x⟩ + 1|; without it no manifold_violation_max.
        cutoffs: the k of ndcg@k; 10 is always among them.
        left_out: (N,) bool, codes that no training saw: parent_retrieval@1 of the deepest among them is given
            apart.
    """
    if len(tree) <= EXACT_CODES:
        matrix = distances if isinstance(distances, np.ndarray) else distances[np.arange(len(tree))]
        scores, rank = neighbour_scores(matrix, tree, cutoffs)
        metrics = exact_pair_metrics(matrix, tree)
    else:
        largest = float(distances.max())
        refuse_diverged(largest)
        pairs = PairHistogram(tree, largest)
        scores, rank = neighbour_scores(distances, tree, cutoffs, pairs.add)
        metrics = pairs.metrics()
    metrics |= {name: mean_of_known(values) for name, values in scores.items()}
    metrics["mean_rank_edges"] = mean_of_known(rank)
    if left_out is not None and left_out.any():
        deepest = left_out & (tree.level == tree.level.max())
        metrics["left_out_parent_retrieval@1"] = mean_of_known(scores["parent_retrieval@1"][deepest])
    if radii is not None:
        of_radius = _radius_scores(radii, tree)
        metrics |= {name: mean_of_known(values) for name, values in of_radius.items()}
        scores |= of_radius
    if violation is not None:
        metrics["manifold_violation_max"] = violation
    return StructureScores(metrics, scores)


def ceiling(tree: Tree, *, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Each metric of the tree distance itself, the radius of a code being its depth.

    Spearman would be 1 by definition there; its ceiling is that of the tree distance with its ties broken in any
    order, which is what a distance without ties can reach.
    """
    metrics = structure_metrics(TreeDistances(tree), tree, radii=tree.level - 1.0, cutoffs=cutoffs)
    across, within = _pairs_by_step(tree)
    metrics["spearman_correlation"] = _untied_spearman(across + within)
    metrics["spearman_correlation_within_sector"] = _untied_spearman(within)
    return metrics


def _pairs_by_step(tree: Tree) -> np.ndarray:
    """(2, 11) int64: how many pairs of codes are so many edges apart, across sectors and within."""
    every, steps = np.arange(len(tree)), 2 * max(LEVELS) - 1
    count = np.zeros(2 * steps, dtype=np.int64)
    for rows in tree.row_blocks():
        within = tree.sector[rows, None] == tree.sector
        place = tree.tree_distance_of(rows[:, None], every) + np.uint8(steps) * within
        count += np.bincount(place[every > rows[:, None]], minlength=2 * steps)
    return count.reshape(2, steps)


def _untied_spearman(count: np.ndarray) -> float:
    """Correlation of average ranks with the ranks after every tie is broken: the ratio of their spreads."""
    n = int(count.sum())
    if (count > 0).sum() < 2:
        return float("nan")
    spread = (average_rank(count) - (n + 1) / 2) ** 2 @ count / n
    return float(np.sqrt(spread / ((n**2 - 1) / 12)))


def mean_of_known(values: np.ndarray) -> float:
    """The mean without what is NaN; NaN where nothing is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _radius_scores(radii: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    scores = {f"radius_mean_level_{level}": np.where(tree.level == level, radii, np.nan) for level in LEVELS}
    farther = (radii > radii[tree.parent]).astype(np.float64)
    return scores | {"radius_monotonicity": np.where(tree.parent >= 0, farther, np.nan)}
