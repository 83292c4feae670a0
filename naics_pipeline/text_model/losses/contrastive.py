"""Contrastive loss: a pair's codes move together, its negatives away."""

import math

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's pairs, with the margin that their anchors' radii leave."""
    if view.pairs is None:
        return None
    pairs, space, points, weights = view.pairs, view.space, view.points, scalars.weights
    anchor, positive = pairs.anchor, pairs.positive
    margin = norm_adaptive_margin(space.radii(points[anchor]), weights.margin).unsqueeze(-1)
    codes = torch.cat([positive, pairs.codes])
    to_codes = space.distances(points[anchor], points[codes])
    to_positive = to_codes[:, : len(positive)].diagonal()
    if weights.in_batch_negatives:
        # The K drawn ones are among the batch's codes already.
        distance = view.tree.distance[anchor]
        farther = distance[:, pairs.codes] > view.tree.distance[anchor, positive].unsqueeze(-1)
        farther &= ~view.tree.held_out[anchor][:, pairs.codes]
        others = pairs.codes.expand(len(anchor), -1)
        to_negative = (to_codes[:, len(positive) :] - margin).masked_fill(~farther, math.inf)
    else:
        others = pairs.negative
        column = torch.searchsorted(pairs.codes, others) + len(positive)
        to_negative = to_codes.gather(1, column) - margin
    if view.suspects is not None:
        to_negative = to_negative.masked_fill(view.suspects.of(anchor, others), math.inf)
        # An anchor of which only suspects were drawn has nothing to be told from.
        kept = torch.isfinite(to_negative).any(1)
        if not bool(kept.any()):
            return None
        to_positive, to_negative = to_positive[kept], to_negative[kept]
    return contrastive_loss(to_positive, to_negative, scalars.temperature, weights.contrastive_loss)


def contrastive_loss(positive: Tensor, negative: Tensor, temperature: Tensor | float, kind: str) -> Tensor:
    """Mean over pairs of d(a,p)/τ + logsumexp of -d(a,n)/τ over the negatives.

    `dcl`: negatives alone stand in the sum, so that an easy pair keeps its gradient; decoupled contrastive learning,
    Yeh et al. (2022), eq. 6. `infonce`: the positive stands there too; van den Oord et al. (2018), eq. 4.

    Args:
        positive: (B,) distances of anchor and positive.
        negative: (B, K) distances of anchor and negatives, margins already subtracted; +inf leaves one out.
        temperature: τ > 0.
        kind: dcl | infonce.
    Returns: scalar.
    """
    logits = -negative / temperature
    pull = positive / temperature
    if kind == "infonce":
        logits = torch.cat([-pull.unsqueeze(-1), logits], dim=-1)
    return (pull + logits.logsumexp(-1)).mean()


def norm_adaptive_margin(radius: Tensor, margin: float) -> Tensor:
    """margin · sech(r): wide near the origin, where codes are broad, and narrow far out; (B,) for radii (B,)."""
    return margin / torch.cosh(radius)
