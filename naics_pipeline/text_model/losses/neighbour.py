"""Neighbour loss: free text lands beside other texts of its six-digit code."""

import math

import torch
from torch import Tensor

from naics_pipeline.text_model.losses.query import query_targets, relatives
from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's queries among all texts of leaves."""
    if view.queries is None or view.neighbours is None:
        return None
    queries, texts = view.queries, view.neighbours
    below, away = relatives(view, queries)
    leaf = torch.where(texts.code < 0, -1, view.tree.leaf_of[texts.code])
    seen = away.isfinite()[:, leaf] & (leaf >= 0)
    seen[texts.left_of, texts.left_row] = False
    # A code of which no other text is known gets no target, and a query of such a code none at all.
    known = seen.new_zeros(away.shape, dtype=away.dtype).index_add(1, leaf.clamp_min(0), seen.to(away.dtype)) > 0
    kept = (below & known).any(1)
    distances = view.space.text_distances(queries.points[kept], texts.direction)
    targets = query_targets(away.masked_fill(~known, math.inf)[kept], scalars.weights.query_smoothing)
    return neighbour_loss(distances, seen[kept], leaf.clamp_min(0), targets, scalars.query_temperature)


def neighbour_loss(
    distances: Tensor, seen: Tensor, owner: Tensor, targets: Tensor, temperature: Tensor | float
) -> Tensor:
    """Neighbourhood components analysis, Goldberger et al. (2004), eq. 2 and 5, with graded targets.

    A class is as likely as all of its texts together: the sum of exp(-d/τ) over those that count.

    Args:
        distances: (Q, M) from each query to each text.
        seen: (Q, M) bool, texts that count.
        owner: (M,) the class of each text, below L.
        targets: (Q, L), rows sum to 1; 0 for a class without a text that counts.
        temperature: τ > 0.
    Returns: scalar.
    """
    logits = (-distances / temperature).masked_fill(~seen, -math.inf)
    mass = (logits - logits.detach().amax(1, keepdim=True)).exp()
    of_class = mass.new_zeros(targets.shape).index_add(1, owner, mass)
    log_share = of_class.clamp_min(torch.finfo(mass.dtype).tiny).log() - mass.sum(1, keepdim=True).log()
    return -(targets * log_share).sum(1).mean()
