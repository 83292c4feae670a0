"""How well distances between codes reproduce the tree: every metric over all N codes, exact, in float64.

D is a matrix of distances, T the tree's own. Ties never depend on the order of rows: ranks are averaged, and what is
counted among the k nearest is counted as often as it would be on average over all orders of tied codes. A metric that
a taxonomy does not define (sector_auc of one sector, say) is NaN, null in JSON, never an arbitrary number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings

CUTOFFS = (5, 10, 20)
_BLOCK = 512
_COINCIDENT = 1e-6
_COLLAPSED_VARIATION = 0.05
_COLLAPSED_SHARE = 0.01


def embedding_distances(points: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
    """Distances between all points, (N, N) float64, symmetric with an exact zero diagonal.

    Args:
        points: (N, d + 1) on the hyperboloid, or (N, d) where geometry is euclidean.
        curvature: c > 0 of a space with sectional curvature -c; not read where geometry is euclidean.
        geometry: lorentz or euclidean.
    """
    if geometry == "euclidean":
        distances = cdist(points, points)
    else:
        x = torch.from_numpy(np.array(points, dtype=np.float64))
        distances = lorentz.pairwise_distance(x, x, curvature=float(curvature)).numpy()
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return distances


def evaluate_embeddings(
    embeddings: Embeddings, *, tree: Tree | None = None, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """Every structure metric of an embeddings file, whatever the order of its rows.

    Args:
        tree: the taxonomy, where it is at hand; else made from the codes of the file.

    Raises:
        ModelError: the file's codes are not those of the tree.
    """
    tree = tree or Tree.from_codes(embeddings.codes.tolist())
    points = aligned_points(embeddings, tree)
    x = torch.from_numpy(points)
    if embeddings.geometry == "euclidean":
        radii, violation = np.linalg.norm(points, axis=1), None
    else:
        radii = lorentz.radius(x, curvature=embeddings.curvature).numpy()
        violation = float(lorentz.violation(x, curvature=embeddings.curvature).max())
    distances = embedding_distances(points, embeddings.curvature, embeddings.geometry)
    return structure_metrics(distances, tree, radii=radii, violation=violation, cutoffs=cutoffs)


def aligned_points(embeddings: Embeddings, tree: Tree) -> np.ndarray:
    """The points in the order of the tree's codes.

    Raises:
        ModelError: the two do not hold the same codes.
    """
    order = np.argsort(embeddings.codes)
    if not np.array_equal(embeddings.codes[order], tree.codes):
        difference = sorted(set(embeddings.codes.tolist()) ^ set(tree.codes.tolist()))
        raise ModelError(
            f"the embeddings hold {len(order)} codes, the taxonomy {len(tree)}; first that differs: "
            f"{difference[0] if difference else 'a repeated code'}. Evaluate them against the taxonomy they come from."
        )
    return np.ascontiguousarray(embeddings.points[order], dtype=np.float64)


def structure_metrics(
    distances: np.ndarray,
    tree: Tree,
    *,
    radii: np.ndarray | None = None,
    violation: float | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, float]:
    """All metrics that compare distances with the tree.

    Args:
        distances: (N, N) float64, symmetric, in the order of `tree.codes`; the diagonal is not read.
        radii: (N,) distance of each code from the origin; without it no radius metrics.
        violation: largest |c⟨x, x⟩ + 1|; without it no manifold_violation_max.
        cutoffs: the k of ndcg@k.
    """
    if not np.isfinite(distances).all():
        raise ModelError("distances between codes are not all finite: the embeddings diverged; train them again.")
    metrics = _pair_metrics(distances, tree)
    metrics |= {name: _mean(values) for name, values in code_scores(distances, tree, cutoffs=cutoffs).items()}
    _, rank, _ = _edges(_without_self(distances), tree)
    metrics["mean_rank_edges"] = _mean(rank)
    if radii is not None:
        metrics |= _radius_metrics(radii, tree)
    if violation is not None:
        metrics["manifold_violation_max"] = violation
    return metrics


def ceiling(tree: Tree, *, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Each metric of the tree distance itself, the radius of a code being its depth.

    Spearman would be 1 by definition there; its ceiling is that of the tree distance with its ties broken in any
    order, which is what a distance without ties can reach.
    """
    distances = tree.tree_distance().astype(np.float64)
    metrics = structure_metrics(distances, tree, radii=tree.level - 1.0, cutoffs=cutoffs)
    first, second = np.triu_indices(len(tree), k=1)
    same = tree.sector[first] == tree.sector[second]
    metrics["spearman_correlation"] = _untied_spearman(distances[first, second])
    metrics["spearman_correlation_within_sector"] = _untied_spearman(distances[first, second][same])
    return metrics


def code_scores(distances: np.ndarray, tree: Tree, *, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """The metrics that are means over codes, code by code: name → (N,), NaN where a code does not take part."""
    ranked = _without_self(distances)
    scores = _neighbour_scores(ranked, tree, cutoffs)
    code, _, precision = _edges(ranked, tree)
    scores["map_edges"] = _per_code(tree, code, precision)
    return scores | _parent_scores(ranked, tree) | _sibling_scores(ranked, tree)


def _parent_scores(ranked: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    children = np.flatnonzero(tree.parent >= 0)
    parents = tree.parent[children]
    siblings = np.bincount(parents, minlength=len(tree))[parents]
    upward = _place(ranked, children, tree.parent[children], lambda rows: _at_level(tree, tree.level[rows] - 1))
    scores = {}
    for k in (1, 5):
        found = np.where(siblings > 1, upward.within(k), np.nan)
        scores[f"parent_retrieval@{k}"] = _per_code(tree, children, found)

    downward = _place(ranked, parents, children, lambda rows: _at_level(tree, tree.level[rows] + 1))
    scores["child_recall@5"] = _per_code(tree, parents, downward.within(5))
    return scores


def _sibling_scores(ranked: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    related = (tree.parent[:, None] == tree.parent) & (tree.parent >= 0)
    np.fill_diagonal(related, False)
    code, sibling = np.nonzero(related)
    beside = _place(ranked, code, sibling, lambda rows: _at_level(tree, tree.level[rows]))
    peers = np.bincount(tree.level, minlength=max(LEVELS) + 1)[tree.level] - 1
    scores = {}
    for k in (5, 10):
        hits = np.bincount(code, weights=beside.within(k), minlength=len(tree))
        share = hits / np.maximum(np.minimum(k, peers), 1)
        scores[f"sibling_precision@{k}"] = np.where(related.any(axis=1), share, np.nan)
    return scores


def _without_self(distances: np.ndarray) -> np.ndarray:
    ranked = distances.astype(np.float64, copy=True)
    np.fill_diagonal(ranked, np.inf)
    return ranked


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _per_code(tree: Tree, code: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the values that belong to each code, NaN where there are none."""
    count = np.bincount(code, minlength=len(tree)).astype(np.float64)
    count[count == 0] = np.nan
    return np.bincount(code, weights=values, minlength=len(tree)) / count


def _pair_metrics(distances: np.ndarray, tree: Tree) -> dict[str, float]:
    first, second = np.triu_indices(len(tree), k=1)
    d = distances[first, second].astype(np.float64)
    t = tree.tree_distance()[first, second].astype(np.float64)
    same = tree.sector[first] == tree.sector[second]
    rank = rankdata(d)
    metrics = {
        "cophenetic_correlation": pearson(d, t),
        "cophenetic_correlation_within_sector": pearson(d[same], t[same]),
        "spearman_correlation": pearson(rank, rankdata(t)),
        "spearman_correlation_within_sector": pearson(rankdata(d[same]), rankdata(t[same])),
        "sector_auc": _auc(rank, ~same),
    }
    return metrics | _distortion(d, t) | {"collapse": _collapsed(d)}


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two vectors, NaN where either is constant."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _untied_spearman(t: np.ndarray) -> float:
    """Correlation of average ranks with the ranks after every tie is broken: the ratio of their spreads."""
    if t.size < 2 or np.ptp(t) == 0:
        return float("nan")
    return float(rankdata(t).std() / np.arange(t.size).std())


def _auc(rank: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive ranks above a negative, ties one half (Mann-Whitney U)."""
    n = int(positive.sum())
    if n in (0, positive.size):
        return float("nan")
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (positive.size - n)))


def _distortion(d: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """|D/s - T| / T with the scale s of least mean: with x = D/T a median of 1/x, weighted by x, is 1/s."""
    x = d / t
    if not (x > 0).any():
        return dict.fromkeys(("distortion_mean", "distortion_median", "distortion_worst"), float("nan"))
    ordered = np.sort(x[x > 0])[::-1]
    weight = np.cumsum(ordered)
    scale = ordered[np.searchsorted(weight, weight[-1] / 2)]
    error = np.abs(x / scale - 1)
    return {
        "distortion_mean": float(error.mean()),
        "distortion_median": float(np.median(error)),
        "distortion_worst": float(x.max() / x.min()) if x.min() > 0 else float("inf"),
    }


def _collapsed(d: np.ndarray) -> bool:
    """Distances that hardly vary, or more than one pair in a hundred closer than 1e-6 of the mean distance."""
    if d.size == 0 or d.mean() == 0:
        return True
    coincident = float((d <= _COINCIDENT * d.mean()).mean())
    return bool(d.std() < _COLLAPSED_VARIATION * d.mean() or coincident > _COLLAPSED_SHARE)


def _neighbour_scores(ranked: np.ndarray, tree: Tree, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    depth = tree.lca_depth().copy()
    np.fill_diagonal(depth, 0)
    k = min(max(*cutoffs, 10), len(tree) - 1)
    discount = 1 / np.log2(np.arange(k) + 2)
    gain, same_sector = np.empty((len(tree), k)), np.empty((len(tree), k))
    for start in range(0, len(tree), _BLOCK):
        block = slice(start, start + _BLOCK)
        gain[block], same_sector[block] = _nearest_gains(ranked[block], (depth[block], depth[block] > 0), k)
    ideal = np.sort(depth, axis=1)[:, ::-1][:, :k]
    scores = {}
    for cutoff in cutoffs:
        best = ideal[:, :cutoff] @ discount[:cutoff]
        best[best == 0] = np.nan
        scores[f"ndcg@{cutoff}"] = gain[:, :cutoff] @ discount[:cutoff] / best
    if k:
        scores["sector_purity@10"] = same_sector[:, :10].mean(axis=1)
    return scores


def _nearest_gains(ranked: np.ndarray, gains: tuple[np.ndarray, ...], k: int) -> list[np.ndarray]:
    """Gain at each of the k nearest places, the mean of its tie group: (rows, k) for each of the (rows, N) gains."""
    order = np.argsort(ranked, axis=1)
    value = np.take_along_axis(ranked, order, axis=1)
    place = np.arange(value.shape[1])
    opens = np.ones(value.shape, dtype=bool)
    opens[:, 1:] = value[:, 1:] != value[:, :-1]
    start = np.maximum.accumulate(np.where(opens, place, 0), axis=1)[:, :k]
    following = np.full(value.shape, value.shape[1])
    following[:, :-1] = np.where(opens[:, 1:], place[1:], value.shape[1])
    end = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1][:, :k]
    averaged = []
    for gain in gains:
        total = np.zeros((value.shape[0], value.shape[1] + 1))
        np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1, dtype=np.float64, out=total[:, 1:])
        group = np.take_along_axis(total, end, axis=1) - np.take_along_axis(total, start, axis=1)
        averaged.append(group / (end - start))
    return averaged


@dataclass(frozen=True)
class _Places:
    """How many candidates lie closer than the target, and how many as close, itself counted where it is one."""

    closer: np.ndarray
    tied: np.ndarray

    def within(self, k: int) -> np.ndarray:
        """Chance that the target is among the k nearest, over all orders of tied candidates."""
        return np.clip((k - self.closer) / self.tied, 0, 1)


def _place(
    ranked: np.ndarray, codes: np.ndarray, targets: np.ndarray, candidates: Callable[[np.ndarray], np.ndarray]
) -> _Places:
    """Place of targets[i] among the candidates of codes[i]; `candidates` gives a bool mask (rows, N) of some codes."""
    closer, tied = np.empty(len(codes), dtype=np.int64), np.empty(len(codes), dtype=np.int64)
    for start in range(0, len(codes), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows, limit = ranked[codes[block]], ranked[codes[block], targets[block]][:, None]
        mask = candidates(codes[block])
        closer[block] = np.count_nonzero((rows < limit) & mask, axis=1)
        tied[block] = np.count_nonzero((rows == limit) & mask, axis=1)
    return _Places(closer, tied)


def _at_level(tree: Tree, level: np.ndarray) -> np.ndarray:
    return tree.level[None, :] == level[:, None]


def _edges(ranked: np.ndarray, tree: Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each code's parent and children: (code, rank among the codes that are neither, precision at that place)."""
    children = np.flatnonzero(tree.parent >= 0)
    code = np.concatenate([children, tree.parent[children]])
    neighbour = np.concatenate([tree.parent[children], children])
    adjacent = np.zeros((len(tree), len(tree)), dtype=bool)
    adjacent[code, neighbour] = True
    near = _place(ranked, code, neighbour, lambda rows: adjacent[rows])
    others = _place(ranked, code, neighbour, lambda rows: ~adjacent[rows])
    before = others.closer + others.tied / 2
    own = near.closer + (near.tied + 1) / 2
    return code, 1 + before, own / (own + before)


def _radius_metrics(radii: np.ndarray, tree: Tree) -> dict[str, float]:
    metrics = {f"radius_mean_level_{level}": _mean(radii[tree.level == level]) for level in LEVELS}
    children = np.flatnonzero(tree.parent >= 0)
    metrics["radius_monotonicity"] = _mean((radii[children] > radii[tree.parent[children]]).astype(np.float64))
    return metrics
