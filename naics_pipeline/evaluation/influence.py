"""What each code contributes to a metric over all pairs of codes, so that these metrics have scores by code, too.

The contribution is the infinitesimal jackknife's pseudo-value (Efron, The Jackknife, the Bootstrap and Other Resampling
Plans, 1982, ch. 6): the metric, plus its derivative as the code weighs more. Their mean is the metric; their spread
over codes is the metric's own sampling error, so that resampling them gives its interval, and their difference between
two spaces is where one gains on the other. The scale of the mean distortion minimises it, and therefore has no
derivative of its own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from naics_pipeline.evaluation.pairs import best_scale
from naics_pipeline.taxonomy.tree import Tree


def pair_scores(distances: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    """Metric → (N,) pseudo-values: correlations, sector AUC and mean distortion; none where the metric is undefined.

    Args:
        distances: (N, N) of an embedding, in the order of the tree's codes.
    """
    first, second = np.triu_indices(len(tree), k=1)
    pairs = _Pairs(len(tree), first, second)
    d = distances[first, second].astype(np.float64)
    t = tree.tree_distance()[first, second].astype(np.float64)
    same = tree.sector[first] == tree.sector[second]
    inside = _Pairs(len(tree), first[same], second[same])
    found = {
        "cophenetic_correlation": pairs.scores(*_pearson(d, t)),
        "cophenetic_correlation_within_sector": inside.scores(*_pearson(d[same], t[same])),
        "spearman_correlation": pairs.scores(*_spearman(d, t)),
        "spearman_correlation_within_sector": inside.scores(*_spearman(d[same], t[same])),
        "sector_auc": pairs.scores(*_auc(d, same)),
        "distortion_mean": pairs.scores(*_distortion(d, t)),
    }
    return {name: scores for name, scores in found.items() if not np.isnan(scores).any()}


@dataclass(frozen=True)
class _Pairs:
    """Pairs of N codes, by the indices of both."""

    n: int
    first: np.ndarray
    second: np.ndarray

    def scores(self, value: float, influence: np.ndarray) -> np.ndarray:
        """(N,) pseudo-values, of the metric's value and each pair's influence on it, of mean 0."""
        total = np.zeros(self.n)
        for side in (self.first, self.second):
            total += np.bincount(side, weights=influence, minlength=self.n)
        return value + self.n * total / max(len(influence), 1)


_UNDEFINED = float("nan")


def _ratio(product: np.ndarray, squares: tuple[np.ndarray, np.ndarray]) -> tuple[float, np.ndarray]:
    """m(product) / sqrt(m(s₁) m(s₂)) of three means m, and its influence, of what influences each mean."""
    top, bottoms = product.mean(), [square.mean() for square in squares]
    if min(bottoms) <= 0:
        return _UNDEFINED, np.zeros_like(product)
    scale = np.sqrt(bottoms[0] * bottoms[1])
    value = top / scale
    relative = sum((square - bottom) / bottom for square, bottom in zip(squares, bottoms, strict=True))
    return float(value), (product - top) / scale - value / 2 * relative


def _pearson(d: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    if d.size < 2 or np.ptp(d) == 0 or np.ptp(t) == 0:
        return _UNDEFINED, np.zeros_like(d)
    d, t = d - d.mean(), t - t.mean()
    return _ratio(d * t, (d * d, t * t))


def _spearman(d: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """Ranks move with the weights as well: a pair's influence has a term for each rank that it lies below."""
    if d.size < 2 or np.ptp(d) == 0 or np.ptp(t) == 0:
        return _UNDEFINED, np.zeros_like(d)
    rank_d, rank_t = rankdata(d), rankdata(t)
    u, v = rank_d / d.size, rank_t / t.size
    u, v = u - u.mean(), v - v.mean()
    above = {"uu": _mean_above(rank_d, u), "uv": _mean_above(rank_d, v)}
    above |= {"vv": _mean_above(rank_t, v), "vu": _mean_above(rank_t, u)}
    moved = u * v + above["uv"] + above["vu"]
    value, influence = _ratio(moved / 3, ((u * u + 2 * above["uu"]) / 3, (v * v + 2 * above["vv"]) / 3))
    return value, 3 * influence


def _mean_above(rank: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(P,) for each pair: the sum of the values of all pairs of higher rank, and half of those tied with it, over P."""
    place = (2 * rank).astype(np.int64)
    total = np.bincount(place, weights=values)
    above = total.sum() - np.cumsum(total)
    return (above + total / 2)[place] / rank.size


def _auc(d: np.ndarray, same: np.ndarray) -> tuple[float, np.ndarray]:
    """A pair in a sector counts the pairs across that are farther apart, a pair across those inside that are nearer."""
    within, across = int(same.sum()), int((~same).sum())
    if not within or not across:
        return _UNDEFINED, np.zeros_like(d)
    everywhere = rankdata(d)
    nearer = (everywhere[~same] - rankdata(d[~same])) / within
    farther = 1 - (everywhere[same] - rankdata(d[same])) / across
    value = float(nearer.mean())
    influence = np.empty_like(d)
    influence[~same] = (nearer - value) * d.size / across
    influence[same] = (farther - value) * d.size / within
    return value, influence


def _distortion(d: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    x = d / t
    if not (x > 0).any():
        return _UNDEFINED, np.zeros_like(d)
    error = np.abs(x / best_scale(x) - 1)
    return float(error.mean()), error - error.mean()
