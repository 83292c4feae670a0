"""Hierarchy loss: distances in the space follow distances in the tree."""

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's rows against all codes."""
    if not len(view.rows):
        return None
    distances = view.space.distances(view.points[view.rows], view.points)
    return hierarchy_loss(distances, view.tree.tree_distance[view.rows].float(), scalars.scale, view.counted)


def hierarchy_loss(
    distances: Tensor, tree_distances: Tensor, scale: Tensor | float, counted: Tensor | None = None
) -> Tensor:
    """Weighted mean of (D / s - T)² over pairs, weight 1 / T so that near pairs count; pairs with T = 0 are left out.

    A stress function, Sammon (1969), with one scale s between the two units.

    Args:
        distances: (n, m) distances in the space.
        tree_distances: (n, m) edges between the same codes.
        scale: s > 0, length of one edge of the tree.
        counted: (n, m) bool, the pairs that take part; None: all.
    Returns: scalar.
    """
    weight = torch.where(tree_distances > 0, 1 / tree_distances.clamp_min(1), torch.zeros_like(tree_distances))
    if counted is not None:
        weight = weight * counted
    return (weight * (distances / scale - tree_distances).square()).sum() / weight.sum().clamp_min(1e-12)
