"""Metrics over all pairs of codes i < j: of a list of all pairs, or of their histogram where that list grows too long.

D are distances in an embedding, T those of the tree, edges between two codes.
"""

import numpy as np
from scipy.stats import rankdata

from naics_pipeline.graph_model.steps import DistancesByStep
from naics_pipeline.taxonomy.tree import LEVELS, Tree

_STEPS = 2 * (max(LEVELS) - 1) + 1
_BINS = 2**16
_COINCIDENT = 1e-6
_COINCIDENT_BINS = 1024
_COLLAPSED_VARIATION = 0.05
_COLLAPSED_SHARE = 0.01
_DISTORTIONS = ("distortion_mean", "distortion_median", "distortion_worst")


def exact_pair_metrics(distances: np.ndarray, tree: Tree) -> dict[str, float]:
    """All metrics over pairs, of a matrix (N, N) float64."""
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


def _auc(rank: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive ranks above a negative, ties one half (Mann-Whitney U)."""
    n = int(positive.sum())
    if n in (0, positive.size):
        return float("nan")
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (positive.size - n)))


def _distortion(d: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """|D/s - T| / T with the scale s of least mean."""
    x = d / t
    if not (x > 0).any():
        return dict.fromkeys(_DISTORTIONS, float("nan"))
    error = np.abs(x / best_scale(x) - 1)
    return {
        "distortion_mean": float(error.mean()),
        "distortion_median": float(np.median(error)),
        "distortion_worst": float(x.max() / x.min()) if x.min() > 0 else float("inf"),
    }


def best_scale(x: np.ndarray) -> float:
    """The s of least mean |x/s - 1|, of x = D/T with one above 0: a median of 1/x, weighted by x, is 1/s."""
    ordered = np.sort(x[x > 0])[::-1]
    weight = np.cumsum(ordered)
    return float(ordered[np.searchsorted(weight, weight[-1] / 2)])


def _collapsed(d: np.ndarray) -> bool:
    """Distances that hardly vary, or more than one pair in a hundred closer than 1e-6 of the mean distance."""
    if d.size == 0 or d.mean() == 0:
        return True
    coincident = float((d <= _COINCIDENT * d.mean()).mean())
    return bool(d.std() < _COLLAPSED_VARIATION * d.mean() or coincident > _COLLAPSED_SHARE)


class PairHistogram:
    """All pairs of codes in 2¹⁶ bins of D for each T, within sectors and across, from blocks of rows.

    Correlations of D with T and the worst distortion come from sums and extremes, exact. Ranks, and with them Spearman
    and AUC, take the pairs of one bin as tied; distortion takes them as having their mean. A bin is 2⁻¹⁶ of the largest
    distance possible: on random points the median distortion is within 1e-5 of the exact one, all others
    within 1e-6.

    Args:
        largest: no distance is above it.
    """

    def __init__(self, tree: Tree, largest: float) -> None:
        self.tree = tree
        self.largest = max(largest, np.finfo(np.float64).tiny ** 0.5)
        self.count = np.zeros((2, _STEPS, _BINS), dtype=np.int64)
        self.total = np.zeros((2, _STEPS, _BINS))
        self.across, self.within = DistancesByStep(), DistancesByStep()
        self.coincident = np.zeros(_COINCIDENT_BINS, dtype=np.int64)
        self.least, self.most = np.inf, 0.0

    def add(self, rows: np.ndarray, distances: np.ndarray) -> None:
        """The pairs of the codes `rows` with all codes that come after each: distances (rows, N)."""
        every = np.arange(len(self.tree))
        above = every > rows[:, None]
        d = distances[above]
        if not d.size:
            return
        t = self.tree.tree_distance_of(rows[:, None], every)[above].astype(np.int64)
        same = (self.tree.sector[rows, None] == self.tree.sector)[above]
        place = np.minimum((d * (_BINS / self.largest)).astype(np.int64), _BINS - 1) + (t + _STEPS * same) * _BINS
        self.count += np.bincount(place, minlength=self.count.size).reshape(self.count.shape)
        self.total += np.bincount(place, weights=d, minlength=self.count.size).reshape(self.count.shape)
        self.across.add(t[~same], d[~same])
        self.within.add(t[same], d[same])
        near = d[d <= _COINCIDENT * self.largest]
        fine = (near * (_COINCIDENT_BINS / _COINCIDENT / self.largest)).astype(np.int64)
        self.coincident += np.bincount(np.minimum(fine, _COINCIDENT_BINS - 1), minlength=_COINCIDENT_BINS)
        x = d / t
        self.least, self.most = min(self.least, float(x.min())), max(self.most, float(x.max()))

    def metrics(self) -> dict[str, float]:
        """What `exact_pair_metrics` gives of the same distances."""
        both, pairs = self.across + self.within, self.count.sum(axis=0)
        metrics = {
            "cophenetic_correlation": both.correlation(),
            "cophenetic_correlation_within_sector": self.within.correlation(),
            "spearman_correlation": _binned_spearman(pairs),
            "spearman_correlation_within_sector": _binned_spearman(self.count[1]),
            "sector_auc": self._auc(pairs),
        }
        return metrics | self._distortion() | {"collapse": self._collapsed(both)}

    def _auc(self, pairs: np.ndarray) -> float:
        across, n = self.count[0].sum(axis=0), int(self.count[0].sum())
        others = int(self.count[1].sum())
        if not n or not others:
            return float("nan")
        return float((average_rank(pairs.sum(axis=0)) @ across - n * (n + 1) / 2) / (n * others))

    def _distortion(self) -> dict[str, float]:
        filled = self.count > 0
        count = self.count[filled]
        x = self.total[filled] / count / np.nonzero(filled)[1]
        if not (x > 0).any():
            return dict.fromkeys(_DISTORTIONS, float("nan"))
        order = np.argsort(x)[::-1]
        weight = np.cumsum((x * count)[order])
        scale = x[order][np.searchsorted(weight, weight[-1] / 2)]
        error = np.abs(x / scale - 1)
        order = np.argsort(error)
        middle = np.searchsorted(np.cumsum(count[order]), count.sum() / 2)
        return {
            "distortion_mean": float(error @ count / count.sum()),
            "distortion_median": float(error[order][middle]),
            "distortion_worst": self.most / self.least if self.least > 0 else float("inf"),
        }

    def _collapsed(self, sums: DistancesByStep) -> bool:
        n = sums.count.sum()
        mean = sums.total.sum() / n if n else 0.0
        if mean == 0:
            return True
        deviation = np.sqrt(max(sums.squares.sum() / n - mean**2, 0))
        bins = np.ceil(_COINCIDENT_BINS * mean / self.largest).astype(int)
        coincident = self.coincident[:bins].sum() / n
        return bool(deviation < _COLLAPSED_VARIATION * mean or coincident > _COLLAPSED_SHARE)


def average_rank(count: np.ndarray) -> np.ndarray:
    """The rank, from 1, that each of some values in order shares with its ties: of how many there are of each."""
    return np.cumsum(count) - (count - 1) / 2


def _binned_spearman(count: np.ndarray) -> float:
    """Spearman's correlation of the rows of a table of counts with its columns, NaN where either is constant."""
    by_row, by_column = count.sum(axis=1), count.sum(axis=0)
    if (by_row > 0).sum() < 2 or (by_column > 0).sum() < 2:
        return float("nan")
    middle = (count.sum() + 1) / 2
    row, column = average_rank(by_row) - middle, average_rank(by_column) - middle
    spread = (row**2 @ by_row) * (column**2 @ by_column)
    return float(row @ (count @ column) / np.sqrt(spread))
