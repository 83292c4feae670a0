"""Attraction loss: suspected false negatives come nearer, in place of being pushed away."""

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the negatives that lie in the cluster of their anchor; with `hybrid`, those nearer than the positive."""
    if view.pairs is None or view.suspects is None or view.suspects.mode == "eliminate":
        return None
    pairs, points = view.pairs, view.points
    pulled = view.suspects.of(pairs.anchor, pairs.negative)
    row, column = pulled.nonzero(as_tuple=True)
    if not len(row):
        return None
    anchor, suspect = points[pairs.anchor], pairs.negative[row, column]
    distance = view.space.paired_distances(anchor[row], points[suspect])
    sure = torch.ones_like(distance, dtype=torch.bool)
    if view.suspects.mode == "hybrid":
        sure = distance < view.space.paired_distances(anchor, points[pairs.positive])[row]
    return attraction_loss(distance, sure, scalars.scale)


def attraction_loss(distance: Tensor, sure: Tensor, scale: Tensor | float) -> Tensor:
    """Mean of d / s over the pairs that are sure, 0 where there are none.

    The second half of false negative cancellation, Huynh et al. (2022), section 3.2, in hyperbolic distance.

    Args:
        distance: (n,) of anchors and suspects.
        sure: (n,) bool.
        scale: s > 0, length of an edge of the tree.
    """
    return (distance * sure).sum() / sure.sum().clamp_min(1) / scale
