"""Distances beside the number of edges between two codes, in sums: what all pairs say without a list of all pairs."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import LEVELS

_MOST = 2 * (max(LEVELS) - 1)
_CACHED_ENTRIES = 2**20


def distances_between(u: Tensor, v: Tensor, *, curvature: float) -> Tensor:
    """`lorentz.pairwise_distance` without gradient, a few rows at a time: intermediate results stay in the cache."""
    size = max(1, _CACHED_ENTRIES // max(1, len(v)))
    distance = u.new_empty(len(u), len(v))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        distance[rows] = lorentz.pairwise_distance(u[rows], v, curvature=curvature)
    return distance


def _zeros() -> np.ndarray:
    return np.zeros(_MOST + 1)


@dataclass
class DistancesByStep:
    """Sums over pairs of codes, by `Tree.tree_distance`.

    Attributes:
        count, total, squares: (11,) float64: the pairs that are so many edges apart, the sum of their distances D in
            an embedding, and of D².
    """

    count: np.ndarray = field(default_factory=_zeros)
    total: np.ndarray = field(default_factory=_zeros)
    squares: np.ndarray = field(default_factory=_zeros)

    def add(self, steps: np.ndarray, distance: np.ndarray) -> None:
        """More pairs: edges between the codes of each, and their distances, both (n,)."""
        self.count += np.bincount(steps, minlength=_MOST + 1)
        self.total += np.bincount(steps, weights=distance, minlength=_MOST + 1)
        self.squares += np.bincount(steps, weights=distance * distance, minlength=_MOST + 1)

    def __add__(self, other: "DistancesByStep") -> "DistancesByStep":
        return DistancesByStep(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def correlation(self) -> float:
        """Pearson's correlation of D with the edges T; NaN where either is constant."""
        pairs, steps = self.count.sum(), np.arange(_MOST + 1)
        if pairs < 2:
            return float("nan")
        mean, mean_steps = self.total.sum() / pairs, steps @ self.count / pairs
        # About the mean of each step, so that no large sums cancel.
        inner = self.total / np.maximum(self.count, 1)
        within = np.maximum(self.squares - inner * self.total, 0).sum()
        spread = within + self.count @ (inner - mean) ** 2
        spread_steps = self.count @ (steps - mean_steps) ** 2
        if spread <= 0 or spread_steps <= 0:
            return float("nan")
        return float(self.count @ ((inner - mean) * (steps - mean_steps)) / np.sqrt(spread * spread_steps))

    def stress(self) -> float:
        """Mean of (D - T)² / T over all pairs."""
        steps = np.arange(_MOST + 1)
        error = (self.squares - 2 * steps * self.total + steps**2 * self.count) / np.maximum(steps, 1)
        return float(error.sum() / self.count.sum()) if self.count.any() else float("nan")
