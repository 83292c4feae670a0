"""What every way to draw negatives has in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from naics_pipeline.text_model.curriculum.negatives.candidates import GROUP_HARDNESS, Candidates

if TYPE_CHECKING:
    from naics_pipeline.text_model.curriculum.state import CurriculumState

GRADES = 9
"""Hardness of a negative, `taxonomy.triplets.hardness`: 1 to 8, and 0 for none."""


@dataclass(frozen=True)
class Pairs:
    """B pairs, as indices of codes.

    Attributes:
        anchor, positive: (B,) int64.
    """

    anchor: np.ndarray
    positive: np.ndarray

    def at(self, rows: slice | np.ndarray) -> "Pairs":
        """Some of them."""
        return Pairs(self.anchor[rows], self.positive[rows])


@dataclass(frozen=True)
class Negatives:
    """Negatives of B pairs, as indices of codes.

    Attributes:
        codes: (B, K) int64.
        hardness: (B, K) uint8.
        asked, short: (9,) int64, how many each bucket of hardness was to give, and how many it fell short; zeros where
            no bucket was asked for.
    """

    codes: np.ndarray
    hardness: np.ndarray
    asked: np.ndarray
    short: np.ndarray

    def counts(self) -> np.ndarray:
        """(9,) how many there are of each hardness."""
        return np.bincount(self.hardness.ravel(), minlength=GRADES)


class NegativePolicy(Protocol):
    """Draws K negatives for each pair: codes farther from the anchor than the positive, in `Tree.distance`.

    K come out always, without repeats while there are K. A pair that is held out is none.
    """

    @property
    def needs(self) -> frozenset[str]:
        """What of the model's state it looks at: points, gates."""

    def draw(self, pairs: Pairs, state: "CurriculumState", generator: np.random.Generator) -> Negatives:
        """Negatives of B pairs, by the phase that the curriculum is in."""


def of_groups(codes: np.ndarray, groups: np.ndarray, positive: np.ndarray) -> Negatives:
    """Negatives that are of these groups (B, K), for positives at twice these distances (B,)."""
    none = np.zeros(GRADES, dtype=np.int64)
    return Negatives(codes, np.take_along_axis(GROUP_HARDNESS[positive], groups, axis=1), none, none)


def hardness_of(candidates: Candidates, pairs: Pairs, codes: np.ndarray) -> np.ndarray:
    """(B, C) hardness of codes, (B, C) or the same (C,) for all, as negatives of these pairs; 0: may be none."""
    of_anchor = candidates.group[pairs.anchor]
    group = of_anchor.take(codes, axis=1) if codes.ndim == 1 else np.take_along_axis(of_anchor, codes, axis=1)
    positive = candidates.half_steps[pairs.anchor, pairs.positive]
    # One flat look-up takes half the time of one by two indices.
    place = positive[:, None] * np.int32(GROUP_HARDNESS.shape[1]) + group
    grades: np.ndarray = GROUP_HARDNESS.ravel().take(place)
    return grades
