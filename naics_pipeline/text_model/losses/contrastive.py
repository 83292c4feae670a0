"""Contrastive loss: a pair's codes move together, its negatives away."""

import torch
from torch import Tensor


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
