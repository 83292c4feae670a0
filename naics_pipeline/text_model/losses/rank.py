"""Rank loss: the codes nearest to a code are its closest relatives."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from naics_pipeline.text_model.losses.view import Scalars, View

CUTOFF = 10


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's rows, each against all codes; in the unit of the tree's edges."""
    if not len(view.rows):
        return None
    distances = view.space.distances(view.points[view.rows], view.points) / scalars.scale
    # The depth of the lowest common ancestor, as `evaluation` counts gains.
    depth = view.tree.level - 1
    lca = (depth[view.rows].unsqueeze(-1) + depth - view.tree.tree_distance[view.rows].long()) // 2
    counted = view.counted & (view.tree.tree_distance[view.rows] > 0)
    return rank_loss(-distances, lca.to(distances.dtype), counted)


def rank_loss(scores: Tensor, gains: Tensor, counted: Tensor, cutoff: int = CUTOFF) -> Tensor:
    """LambdaRank for NDCG: Σ |ΔNDCG_ij| softplus(s_j - s_i) over pairs with gain i > j; Burges (2010), section 4.

    A swap changes NDCG@k only where one of the two is among the first k, so the first k are compared with all.

    Args:
        scores: (n, m) of the items of n lists, higher is better.
        gains: (n, m) ≥ 0, linear.
        counted: (n, m) bool, the items of each list.
        cutoff: k.
    Returns: scalar, the mean over lists that have anything to gain; Δ is without gradient.
    """
    k = min(cutoff, scores.shape[1])
    gains = gains.masked_fill(~counted, 0)
    with torch.no_grad():
        order = scores.masked_fill(~counted, -torch.inf).argsort(dim=1, descending=True)
        position = torch.empty_like(order).scatter_(
            1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order)
        )
        discount = torch.where(position < k, 1 / torch.log2(position + 2.0), 0.0).to(scores.dtype)
        places = 1 / torch.log2(torch.arange(k, device=scores.device) + 2.0).to(scores.dtype)
        best = gains.topk(k, dim=1).values @ places
        top = order[:, :k]
        gap = gains.gather(1, top).unsqueeze(2) - gains.unsqueeze(1)
        change = (gap * (discount.gather(1, top).unsqueeze(2) - discount.unsqueeze(1))).abs()
        change = change / best.clamp_min(1e-12)[:, None, None]
        both = counted.gather(1, top).unsqueeze(2) & counted.unsqueeze(1)
        # Two of the first k meet twice.
        twice = (position < k).unsqueeze(1)
        weight = change * both * torch.where(twice, 0.5, 1.0)
    lead = scores.gather(1, top).unsqueeze(2) - scores.unsqueeze(1)
    # The one with the greater gain should have the higher score.
    loss = (weight * softplus(-torch.sign(gap) * lead)).sum(dim=(1, 2))
    return loss.sum() / (best > 0).sum().clamp_min(1)
