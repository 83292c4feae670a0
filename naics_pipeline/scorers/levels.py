"""Probabilities of the codes above: what is said of six-digit codes, summed over each code's own."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from naics_pipeline.taxonomy.tree import LEVELS, sector_of


@dataclass(frozen=True)
class Levels:
    """The codes of every level above L six-digit codes, themselves the last.

    Attributes:
        codes: level → (G,) codes of so many digits; sectors 31-33, 44-45 and 48-49 are one each, 31, 44 and 48.
        above: level → (L,) position among them of the one above each six-digit code.
    """

    codes: dict[int, np.ndarray]
    above: dict[int, np.ndarray]

    @classmethod
    def of(cls, candidates: np.ndarray) -> Self:
        """Of (L,) six-digit codes, in any order."""
        codes, above = {}, {}
        for level in LEVELS:
            names = [sector_of(code) if level == LEVELS[0] else code[:level] for code in candidates.tolist()]
            codes[level], above[level] = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
        return cls(codes, above)

    def probabilities(self, probabilities: np.ndarray, level: int) -> np.ndarray:
        """(n, G) of the codes of a level, the sums over their six-digit codes, from (n, L)."""
        order = np.argsort(self.above[level], kind="stable")
        first = np.searchsorted(self.above[level][order], np.arange(len(self.codes[level])))
        return np.asarray(np.add.reduceat(probabilities[:, order], first, axis=1))
