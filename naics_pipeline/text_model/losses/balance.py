"""Load-balancing loss: every expert gets its share of the rows."""

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the codes that training knows."""
    if view.gate is None or view.spread is None:
        return None
    return balance_loss(view.gate[view.spread], scalars.top_k)


def balance_loss(probabilities: Tensor, top_k: int) -> Tensor:
    """E · Σ f P, Fedus et al. (2022), eq. 4: 1 for a balanced router, E for one that always chooses the same expert.

    Args:
        probabilities: (n, E) of the gate; f, the share of choices that fall on an expert, is counted, P is their mean.
        top_k: experts chosen per row.
    Returns: scalar, with a gradient through P.
    """
    experts = probabilities.shape[-1]
    chosen = probabilities.topk(top_k, dim=-1).indices
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (share * probabilities.mean(0)).sum()
