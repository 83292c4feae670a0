"""Distances between all codes, whole as a matrix or a few of its rows at a time."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial.distance import cdist

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.steps import distances_between
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned


@dataclass(frozen=True)
class PointDistances:
    """Distances between all points, formed a few rows at a time: read like a matrix by its rows, `distances[rows]`.

    Attributes:
        points: (N, d + 1) on the hyperboloid, or (N, d) where geometry is euclidean.
        curvature: c > 0 of a space with sectional curvature -c; not read where geometry is euclidean.
        geometry: lorentz or euclidean.
    """

    points: np.ndarray
    curvature: float = 1.0
    geometry: str = "lorentz"

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(rows, N) float64."""
        if self.geometry == "euclidean":
            return cdist(self.points[rows], self.points)
        x = self._tensor
        return distances_between(x[rows], x, curvature=float(self.curvature)).numpy()

    def max(self) -> float:
        """What no distance exceeds: there and back by way of the origin."""
        if self.geometry == "euclidean":
            return 2 * float(np.linalg.norm(self.points, axis=1).max())
        return 2 * float(lorentz.radius(self._tensor, curvature=float(self.curvature)).max())

    @cached_property
    def _tensor(self) -> torch.Tensor:
        return torch.from_numpy(np.array(self.points, dtype=np.float64))


@dataclass(frozen=True)
class TreeDistances:
    """The tree's own distances, likewise."""

    tree: Tree

    def __len__(self) -> int:
        return len(self.tree)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.tree.tree_distance_of(rows[:, None], np.arange(len(self.tree))).astype(np.float64)

    def max(self) -> float:
        return 2.0 * (max(LEVELS) - 1)


Distances = np.ndarray | PointDistances | TreeDistances


def embedding_distances(points: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
    """Distances between all points, (N, N) float64, symmetric with an exact zero diagonal.

    Args:
        points: (N, d + 1) on the hyperboloid, or (N, d) where geometry is euclidean.
        curvature: c > 0 of a space with sectional curvature -c; not read where geometry is euclidean.
        geometry: lorentz or euclidean.
    """
    distances = PointDistances(points, curvature, geometry)[np.arange(len(points))]
    distances += distances.T
    distances /= 2
    np.fill_diagonal(distances, 0)
    return distances


def tangent_vectors(space: Embeddings, tree: Tree) -> np.ndarray:
    """(N, d) tangent vectors at the origin, in the tree's order; the points where geometry is euclidean.

    Raises:
        ModelError: the space's codes are not those of the tree.
    """
    points = aligned(space, tree).points
    if space.geometry == "euclidean":
        return points
    return lorentz.log0(torch.from_numpy(points), curvature=float(space.curvature)).numpy()
