"""A two-dimensional hyperbolic picture of an embedding: its own projection, fitted to its distances.

Two dimensions cannot hold the tree (a correlation of about 0.85 is what they allow), so no metric is read off here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from naics_pipeline.evaluation.structure import pearson
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree

_STEPS = 300
_PAIRS_PER_CODE = 10
_LEARNING_RATE = 0.1
_OUTER_RADIUS = 4.0


@dataclass(frozen=True)
class DiskLayout:
    """(N, 2) places in the unit disk and the correlation of their hyperbolic distances with the given ones."""

    places: np.ndarray
    correlation: float


def disk_layout(distances: np.ndarray, radii: np.ndarray, tree: Tree, *, seed: int = 0) -> DiskLayout:
    """Fits points of the hyperbolic plane so that their distances are like the given ones.

    Minimises Sammon's stress Σ (δ - d)²/d over pairs drawn anew each step, together with every parent–child pair.

    Args:
        distances: (N, N) of the embedding.
        radii: (N,) distance of each code from the origin of the embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = _OUTER_RADIUS / max(float(np.quantile(radii, 0.9)), 1e-9)
    target = torch.from_numpy(distances * scale).float()
    radius = torch.from_numpy(radii * scale).float()
    tangent = (_directions(distances) * radius[:, None]).requires_grad_()
    children = torch.from_numpy(np.flatnonzero(tree.parent >= 0))
    parents = torch.from_numpy(tree.parent.astype(np.int64))[children]
    optimizer = torch.optim.Adam([tangent], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        i, j = torch.randint(len(tree), (2, _PAIRS_PER_CODE * len(tree)), generator=generator)
        i, j = i[i != j], j[i != j]
        points = lorentz.exp0(tangent)
        loss = _stress(points, target, i, j) + _stress(points, target, children, parents)
        loss = loss + ((lorentz.norm(tangent).squeeze(1) - radius) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    points = lorentz.exp0(tangent.detach().double())
    first, second = np.triu_indices(len(tree), k=1)
    fitted = lorentz.pairwise_distance(points, points).numpy()[first, second]
    return DiskLayout(lorentz.to_poincare(points).numpy(), pearson(fitted, distances[first, second]))


def _directions(distances: np.ndarray) -> Tensor:
    """(N, 2) unit vectors to start from: round the circle in the order in which average linkage joins the points."""
    order = leaves_list(linkage(squareform(distances, checks=False), method="average"))
    angle = np.empty(len(order))
    angle[order] = 2 * np.pi * np.arange(len(order)) / len(order)
    return torch.from_numpy(np.column_stack([np.cos(angle), np.sin(angle)])).float()


def _stress(points: Tensor, target: Tensor, i: Tensor, j: Tensor) -> Tensor:
    wanted = target[i, j].clamp_min(0.1)
    fitted = lorentz.distance(points[i], points[j])
    return ((fitted - wanted) ** 2 / wanted).mean()
