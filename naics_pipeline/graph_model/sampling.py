"""Which triplets the graph model learns from: drawn by the hardness rule of the taxonomy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import UNRELATED_DISTANCE, Tree
from naics_pipeline.taxonomy.triplets import hardness

_GRADES = 9
_BLOCK_ENTRIES = 2**20
_UNRELATED = round(2 * UNRELATED_DISTANCE)
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
    (`Tree.distance`) and fill `bucket_percentages` by hardness. A bucket that is short leaves its share to the others.
    Memory is that of a block of anchors by n.

    Args:
        kept: (n,) indices of the codes to draw from; triplets count among them.
        excluded: (N, N) bool, pairs of the tree's codes that exclude one another.
        held_out: (N, N) bool, symmetric: pairs that are never anchor and positive, nor anchor and negative.
    """

    def __init__(
        self,
        tree: Tree,
        kept: np.ndarray,
        excluded: np.ndarray,
        settings: Graph,
        seed: int,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.tree, self.kept, self.excluded, self.held_out = tree, kept, excluded, held_out
        self.k = min(settings.k_negatives, len(kept) - 1)
        self.hard = round(settings.hard_negatives * self.k)
        self.share = np.full(_GRADES, _FALLBACK_SHARE, dtype=np.float32)
        self.share[0] = 0
        for bucket, share in settings.bucket_percentages.items():
            self.share[bucket] = max(share, _FALLBACK_SHARE)
        self.random = np.random.default_rng(seed)

    def draw(self, nearest_first: Callable[[np.ndarray], np.ndarray] | None = None) -> Triplets:
        """New triplets of all anchors.

        Args:
            nearest_first: gives for indices of (P,) anchors their (P, n) distances in the embedding. With it the share
                `hard_negatives` of each anchor's negatives are the nearest ones there.
        """
        anchor, positive = _joined([self._positives(rows) for rows in self._blocks(np.arange(len(self.kept)))])
        places = self._blocks(np.arange(len(anchor)))
        drawn = [self._negatives(anchor[here], positive[here], nearest_first) for here in places]
        return Triplets(*_joined([tuple(vars(block).values()) for block in drawn]))

    def _blocks(self, rows: np.ndarray) -> list[np.ndarray]:
        size = max(1, _BLOCK_ENTRIES // len(self.kept))
        return [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]

    def _positives(self, anchor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of some codes that have a relative, and one for each."""
        steps, unseen = self._half_steps(anchor), self._of_pairs(self.held_out, anchor)
        weight = _positive_weight(steps if unseen is None else np.where(unseen, 0, steps))
        chosen = _weighted_order(weight, 1, self.random)[:, 0]
        found = weight.any(axis=1)
        return anchor[found], chosen[found]

    def _negatives(
        self, anchor: np.ndarray, positive: np.ndarray, nearest_first: Callable[[np.ndarray], np.ndarray] | None
    ) -> Triplets:
        """The triplets of those anchors and positives that have a negative."""
        steps, unseen = self._half_steps(anchor), self._of_pairs(self.held_out, anchor)
        grade = _grade(steps[np.arange(len(anchor)), positive], steps, self._of_pairs(self.excluded, anchor))
        if unseen is not None:
            grade[unseen] = 0
        drawable = grade.any(axis=1)
        anchor, positive, grade = anchor[drawable], positive[drawable], grade[drawable]

        hard = np.empty((len(anchor), 0), dtype=np.int64)
        if nearest_first is not None and self.hard:
            hard = _first(np.where(grade > 0, nearest_first(anchor), np.inf), self.hard)
        hard_valid = np.take_along_axis(grade, hard, axis=1) > 0
        np.put_along_axis(grade, hard, 0, axis=1)
        drawn = _weighted_order(_weight_of_grade(grade, self.share), self.k - hard.shape[1], self.random)
        drawn_valid = np.take_along_axis(grade, drawn, axis=1) > 0
        return Triplets(
            anchor, positive, np.concatenate([hard, drawn], axis=1), np.concatenate([hard_valid, drawn_valid], axis=1)
        )

    def _half_steps(self, anchor: np.ndarray) -> np.ndarray:
        return self.tree.half_steps_of(self.kept[anchor, None], self.kept[None, :])

    def _of_pairs(self, matrix: np.ndarray | None, anchor: np.ndarray) -> np.ndarray | None:
        if matrix is None:
            return None
        rows = matrix[self.kept[anchor]]
        return rows if len(self.kept) == len(self.tree) else rows[:, self.kept]


def _joined(blocks: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*blocks, strict=True))


def _grade(positive: np.ndarray, steps: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """`hardness` of all codes (P, n), from twice the distance of the positives (P,) and of all codes (P, n)."""
    every = np.arange(_UNRELATED + 1)
    of_steps = hardness(every[:, None] / 2, every / 2, False)
    grade = of_steps[positive[:, None], steps]
    if excluded is not None:
        grade[excluded & (grade > 0)] = 8
    return grade


def _positive_weight(steps: np.ndarray) -> np.ndarray:
    """(P, n): 1 / number of codes as far from the anchor, 0 where twice the distance is 0 or that across sectors."""
    step = np.where(steps < _UNRELATED, steps, 0)
    share = np.ones(_UNRELATED, dtype=np.float32)
    share[0] = 0
    return _weight_of_grade(step, share).astype(np.float32)


def _weight_of_grade(grade: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(P, n) of small integers to (P, n): the share of each one's grade over how many of the row have it."""
    size, row = len(share), np.arange(len(grade))[:, None]
    key = row * size + grade
    count = np.bincount(key.ravel(), minlength=len(grade) * size).reshape(len(grade), size)
    return (share / np.maximum(count, 1)).ravel()[key]


def _weighted_order(weight: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """k columns of each row, drawn one after another by weight without repeats (Efraimidis & Spirakis, 2006)."""
    waiting = random.standard_exponential(weight.shape, dtype=np.float32)
    return _first(np.divide(waiting, weight, out=np.full_like(waiting, np.inf), where=weight > 0), k)


def _first(key: np.ndarray, k: int) -> np.ndarray:
    """(P, k): columns of the k smallest keys of each row."""
    return np.argpartition(key, k - 1, axis=1)[:, :k] if k else np.empty((len(key), 0), dtype=np.int64)
