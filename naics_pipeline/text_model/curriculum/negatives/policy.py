"""What every way to draw negatives has in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from naics_pipeline.text_model.curriculum.pairs import Pairs

if TYPE_CHECKING:
    from naics_pipeline.text_model.curriculum.state import CurriculumState

GRADES = 9
"""Hardness of a negative, `taxonomy.triplets.hardness`: 1 to 8, and 0 for none."""


@dataclass(frozen=True)
class Negatives:
    """Negatives of B pairs, as indices of codes.

    Attributes:
        codes: (B, K) int64.
        hardness: (B, K) uint8.
        short: (9,) int64, how many each bucket of hardness fell short of what it was to give.
    """

    codes: np.ndarray
    hardness: np.ndarray
    short: np.ndarray

    def counts(self) -> np.ndarray:
        """(9,) how many there are of each hardness."""
        return np.bincount(self.hardness.ravel(), minlength=GRADES)


class NegativePolicy(Protocol):
    """Draws K negatives for each pair: codes farther from the anchor than the positive, in `Tree.distance`.

    K come out always, without repeats while there are K. A pair that is held out is none.
    """

    def draw(self, pairs: Pairs, state: "CurriculumState", generator: np.random.Generator) -> Negatives:
        """Negatives of B pairs, by the phase that the curriculum is in."""
