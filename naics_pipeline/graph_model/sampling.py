"""Which triplets the graph model learns from: drawn by the hardness rule of the taxonomy."""

from dataclasses import dataclass

import numpy as np

from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import UNRELATED_DISTANCE
from naics_pipeline.taxonomy.triplets import hardness

_GRADES = 9
# A negative of a grade that is not asked for, or that fell short, still comes before none at all.
_FALLBACK_SHARE = 1e-9


@dataclass(frozen=True)
class Triplets:
    """One anchor and positive a row, with K negatives.

    Attributes:
        anchor, positive: (P,) indices.
        negatives: (P, K) indices.
        valid: (P, K) bool, False where the taxonomy is too small for K negatives.
    """

    anchor: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray
    valid: np.ndarray


class TripletSampler:
    """Draws, for each code that has a relative and a stranger, one positive and K negatives.

    A positive is any code of the anchor's sector, all distances being equally likely; negatives are farther away
    (`distance`) and fill `bucket_percentages` by hardness. A bucket that is short leaves its share to the others.

    Args:
        distance: (N, N) `Tree.distance`.
        excluded: (N, N) bool, pairs that exclude one another.
    """

    def __init__(self, distance: np.ndarray, excluded: np.ndarray, settings: Graph, seed: int) -> None:
        self.distance, self.excluded = distance, excluded
        self.k = min(settings.k_negatives, len(distance) - 1)
        self.hard = round(settings.hard_negatives * self.k)
        self.share = np.full(_GRADES, _FALLBACK_SHARE, dtype=np.float32)
        self.share[0] = 0
        for bucket, share in settings.bucket_percentages.items():
            self.share[bucket] = max(share, _FALLBACK_SHARE)
        self.random = np.random.default_rng(seed)
        self.positive_weight = _positive_weight(distance)

    def draw(self, nearest_first: np.ndarray | None = None) -> Triplets:
        """New triplets of all anchors.

        Args:
            nearest_first: (N, N) distances in the embedding. With it the share `hard_negatives` of each anchor's
                negatives are the nearest ones there.
        """
        anchor = np.flatnonzero(self.positive_weight.any(axis=1))
        positive = _weighted_order(self.positive_weight[anchor], 1, self.random)[:, 0]
        grade = hardness(self.distance[anchor, positive][:, None], self.distance[anchor], self.excluded[anchor])
        drawable = grade.any(axis=1)
        anchor, positive, grade = anchor[drawable], positive[drawable], grade[drawable]

        hard = np.empty((len(anchor), 0), dtype=np.int64)
        if nearest_first is not None and self.hard:
            hard = _first(np.where(grade > 0, nearest_first[anchor], np.inf), self.hard)
        hard_valid = np.take_along_axis(grade, hard, axis=1) > 0
        np.put_along_axis(grade, hard, 0, axis=1)
        weight = self.share[grade] / np.maximum(_count_of_own_grade(grade), 1)
        drawn = _weighted_order(weight, self.k - hard.shape[1], self.random)
        drawn_valid = np.take_along_axis(grade, drawn, axis=1) > 0
        return Triplets(
            anchor, positive, np.concatenate([hard, drawn], axis=1), np.concatenate([hard_valid, drawn_valid], axis=1)
        )


def _positive_weight(distance: np.ndarray) -> np.ndarray:
    """(N, N): 1 / number of codes as far from the anchor, 0 for itself and outside its sector."""
    step = np.where(distance < UNRELATED_DISTANCE, np.rint(distance * 2), 0).astype(np.int64)
    return np.where(step > 0, 1 / _count_of_own_grade(step), 0).astype(np.float32)


def _count_of_own_grade(grade: np.ndarray) -> np.ndarray:
    """(P, N) of small integers to (P, N): how many of the row have the same."""
    size = int(grade.max(initial=0)) + 1
    row = np.arange(len(grade))[:, None]
    count = np.bincount((row * size + grade).ravel(), minlength=len(grade) * size).reshape(len(grade), size)
    return np.take_along_axis(count, grade.astype(np.int64), axis=1)


def _weighted_order(weight: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """k columns of each row, drawn one after another by weight without repeats (Efraimidis & Spirakis, 2006)."""
    waiting = random.standard_exponential(weight.shape, dtype=np.float32)
    return _first(np.divide(waiting, weight, out=np.full_like(waiting, np.inf), where=weight > 0), k)


def _first(key: np.ndarray, k: int) -> np.ndarray:
    """(P, k): columns of the k smallest keys of each row."""
    return np.argpartition(key, k - 1, axis=1)[:, :k] if k else np.empty((len(key), 0), dtype=np.int64)
