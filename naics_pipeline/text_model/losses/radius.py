"""Radius loss: each level of the hierarchy has its distance from the origin."""

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View

# Where a tree with edges of length 1 is embedded best, found by fitting the NAICS tree directly.
OFFSET = 0.3


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the codes that training knows."""
    if view.spread is None:
        return None
    return radius_loss(view.space.radii(view.points[view.spread]), view.tree.level[view.spread], scalars.scale)


def radius_loss(radius: Tensor, level: Tensor, scale: Tensor | float) -> Tensor:
    """Mean over levels of (mean radius / s - (level - 1 + 0.3))².

    Every level counts the same. The graph model's points have a scale of 1.

    Args:
        radius: (n,) distances from the origin.
        level: (n,) digits of each code, 2 to 6.
        scale: s > 0, the one of the hierarchy term.
    Returns: scalar.
    """
    levels = level.unique()
    member = (level == levels.unsqueeze(-1)).to(radius.dtype)
    mean = member @ radius / member.sum(-1)
    return (mean / scale - (levels.to(radius.dtype) - 1 + OFFSET)).square().mean()


def level_radius(radius: Tensor, level: Tensor) -> dict[int, float]:
    """Mean radius by level, for logs."""
    return {int(k): float(radius[level == k].mean()) for k in torch.unique(level)}
