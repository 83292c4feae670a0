"""Which codes may be an anchor's negatives, in groups of equal distance: what every policy draws from."""

from dataclasses import dataclass

import numpy as np

from naics_pipeline.taxonomy.tree import LEVELS, UNRELATED_DISTANCE, Tree
from naics_pipeline.taxonomy.triplets import hardness

_UNRELATED = round(2 * UNRELATED_DISTANCE)
_PLAIN = _UNRELATED + len(LEVELS)
GROUPS = 2 * _PLAIN
"""Groups by twice the `distance` from the anchor, 1 to 19, then by level across sectors, and the same once more for
codes that the anchor excludes."""
GROUP = np.arange(GROUPS)
GROUP_EXCLUDED = GROUP >= _PLAIN
GROUP_HALF_STEPS = np.minimum(GROUP % _PLAIN, _UNRELATED)
GROUP_SIBLING = GROUP_HALF_STEPS == 4


def group_tree_distance(depth: np.ndarray) -> np.ndarray:
    """(B, groups) edges between an anchor of each depth, (B,) from 1, and the codes of each group."""
    across = depth[:, None] + (GROUP % _PLAIN - _UNRELATED + 1)
    # A line of descent counts half a step less.
    return np.where(GROUP_HALF_STEPS == _UNRELATED, across, (GROUP_HALF_STEPS + 1) // 2)


def _hardness_of_groups() -> np.ndarray:
    half = np.arange(_UNRELATED + 1)
    none = np.zeros((len(half), 1), dtype=np.uint8)
    return np.concatenate([hardness(half[:, None] / 2, GROUP_HALF_STEPS / 2, GROUP_EXCLUDED), none], axis=1)


GROUP_HARDNESS = _hardness_of_groups()
"""(21, groups + 1): by twice the distance of the positive, the hardness of the codes of a group; 0: no negatives."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of some anchors, as rows.

    Attributes:
        order: (n, N) indices of codes, those of a group one after another; codes that are none come last.
        start: (n, groups + 1) where each group begins in a row.
        group: (n, N) uint8 of each code; `GROUPS` for one that is none.
        half_steps: (n, N) uint8, twice the distance between anchor and code.
        depth: (n,) of the anchors, from 1.
    """

    order: np.ndarray
    start: np.ndarray
    group: np.ndarray
    half_steps: np.ndarray
    depth: np.ndarray

    @classmethod
    def of(
        cls,
        tree: Tree,
        excluded: np.ndarray,
        held_out: np.ndarray | None = None,
        anchors: np.ndarray | None = None,
        among: np.ndarray | None = None,
    ) -> "Candidates":
        """Those of all codes, or of some.

        Args:
            excluded: (N, N) bool, pairs of codes that exclude one another.
            held_out: (N, N) bool, pairs that are never drawn.
            anchors: indices; None: all codes.
            among: indices of the codes to draw from, which positions in a row then count; None: all.
        """
        every = np.arange(len(tree)) if among is None else among
        anchors = every if anchors is None else anchors
        half = tree.half_steps_of(anchors[:, None], every)
        group = np.where(half == _UNRELATED, half + (tree.level[every] - LEVELS[0]).astype(np.uint8), half)
        group += np.where(_at(excluded, anchors, every), np.uint8(_PLAIN), np.uint8(0))
        allowed = half > 0
        if held_out is not None:
            allowed &= ~_at(held_out, anchors, every)
        group[~allowed] = GROUPS
        key = np.arange(len(anchors))[:, None] * (GROUPS + 1) + group
        counts = np.bincount(key.ravel(), minlength=len(anchors) * (GROUPS + 1)).reshape(len(anchors), -1)
        return cls(
            # Stable: a radix sort of bytes.
            order=np.argsort(group, axis=1, kind="stable").astype(np.int32),
            start=np.concatenate([np.zeros((len(anchors), 1), int), np.cumsum(counts[:, :GROUPS], axis=1)], axis=1),
            group=group,
            half_steps=half,
            depth=(tree.level[anchors] - LEVELS[0] + 1).astype(np.int64),
        )

    def farther(self, row: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """(B, groups) bool: the groups farther from an anchor than its positive; both (B,)."""
        return GROUP_HARDNESS[self.half_steps[row, positive], :GROUPS] > 0

    def pick(self, row: np.ndarray, low: np.ndarray, size: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(B, K) codes drawn at random from runs of positions, without repeats while a run has enough.

        Robert Floyd's sampling (Bentley & Floyd, 1987), all rows at once.

        Args:
            row: (B,) of the anchors.
            low, size: (B, K) the run that each is drawn from; slots of one run stand side by side.
        """
        slots = np.arange(low.shape[1])
        begins = np.concatenate([np.ones((len(low), 1), bool), low[:, 1:] != low[:, :-1]], axis=1)
        first = np.maximum.accumulate(np.where(begins, slots, 0), axis=1)
        within = slots - first
        ends = np.concatenate([begins[:, 1:], np.ones((len(low), 1), bool)], axis=1)
        last = np.minimum.accumulate(np.where(ends, slots, slots[-1])[:, ::-1], axis=1)[:, ::-1]
        drawn = np.minimum(last - first + 1, size)
        top = size - drawn + within
        chance = (generator.random(low.shape) * (top + 1)).astype(np.int64)
        position = low + chance
        for slot in slots[1:]:
            again = (position[:, :slot] == position[:, slot, None]).any(axis=1)
            position[again, slot] = (low + top)[again, slot]
        # A run of fewer codes than slots repeats them.
        position = np.take_along_axis(position, first + within % np.maximum(size, 1), axis=1)
        codes: np.ndarray = self.order[row[:, None], position]
        return codes.astype(np.int64)

    def pick_groups(
        self, row: np.ndarray, weight: np.ndarray, k: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B, K) codes drawn one after another by weight without repeats, and the groups they are of.

        Args:
            row: (B,) of the anchors.
            weight: (B, groups), or (B, K, groups) where it changes from one to the next, of each code of a group.
        """
        count = np.diff(self.start, axis=1)[row]
        left, groups = count.astype(np.float64), np.empty((len(row), k), dtype=np.int64)
        every = np.arange(len(row))
        for slot in range(k):
            now = weight if weight.ndim == 2 else weight[:, slot]
            summed = np.cumsum(now * left, axis=1)
            # Where all have been drawn, they are drawn once more.
            empty = summed[:, -1] <= 0
            if empty.any():
                left[empty] = count[empty]
                summed[empty] = np.cumsum(now[empty] * left[empty], axis=1)
            chance = generator.random(len(row)) * summed[:, -1]
            groups[:, slot] = (summed <= chance[:, None]).sum(axis=1)
            left[every, groups[:, slot]] -= 1
        groups.sort(axis=1)
        low = np.take_along_axis(self.start[row], groups, axis=1)
        size = np.take_along_axis(count, groups, axis=1)
        return self.pick(row, low, size, generator), groups


def _at(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    if len(rows) == len(columns) == len(matrix):
        return matrix
    return matrix[rows[:, None], columns] if len(columns) < len(matrix) else matrix[rows]
