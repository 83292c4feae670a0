"""Load-balancing loss: every expert gets its share of the rows."""

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the codes that training knows, with what experts the earlier batches of this optimiser step chose."""
    if view.gate is None or view.spread is None:
        return None
    return balance_loss(view.gate[view.spread], scalars.top_k, view.chosen)


def balance_loss(probabilities: Tensor, top_k: int, before: Tensor | None = None) -> Tensor:
    """E · Σ f P, Fedus et al. (2022), eq. 4: 1 for a balanced router, E for one that always chooses the same expert.

    Args:
        probabilities: (n, E) of the gate; f, the share of choices that fall on an expert, is counted, P is their mean.
        top_k: experts chosen per row.
        before: (E,) choices of other batches of the same optimiser step, which count in f; Qiu et al. (2025).
    Returns: scalar, with a gradient through P.
    """
    experts = probabilities.shape[-1]
    count = choices(probabilities, top_k)
    if before is not None:
        count = count + before
    return experts * (count / count.sum() * probabilities.mean(0)).sum()


def choices(probabilities: Tensor, top_k: int) -> Tensor:
    """(E,) how many of n rows choose each expert."""
    chosen = probabilities.topk(top_k, dim=-1).indices
    return torch.bincount(chosen.flatten(), minlength=probabilities.shape[-1])
