"""Query loss: free text lands beside the six-digit code it belongs to."""

import math

from torch import Tensor

# Softmax of -4 T leaves e⁻⁸ for the nearest relative of a six-digit code, and the same share to every six-digit
# descendant of a broader one: one formula for queries whose code is not a leaf of the tree.
SHARPNESS = 4.0


def query_targets(tree_distances: Tensor, smoothing: float) -> Tensor:
    """Target distribution of each query over the leaves, (Q, L).

    Args:
        tree_distances: (Q, L) edges from the query's code to each six-digit code; +inf leaves one out.
        smoothing: share given to relatives by softmax(-T) instead, so that they are not repelled like strangers.
    """
    sharp = (-SHARPNESS * tree_distances).softmax(-1)
    return sharp if smoothing == 0 else (1 - smoothing) * sharp + smoothing * (-tree_distances).softmax(-1)


def query_loss(
    distances: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    confusing: Tensor,
    margin: float,
    left_out: Tensor | None = None,
) -> Tensor:
    """InfoNCE of queries against all six-digit codes with graded targets; van den Oord et al. (2018), eq. 4.

    Args:
        distances: (Q, L) from each query to each six-digit code.
        targets: (Q, L), rows sum to 1.
        temperature: τ > 0.
        confusing: (Q, L) bool, codes that Census warns not to confuse with the query's: hard negatives.
        margin: how much nearer than they are these are made to look.
        left_out: (Q, L) bool, pairs that do not count; None: all do.
    Returns: scalar.
    """
    logits = (-distances + margin * confusing) / temperature
    if left_out is None:
        return -(targets * logits.log_softmax(-1)).sum(-1).mean()
    log_probability = logits.masked_fill(left_out, -math.inf).log_softmax(-1).masked_fill(left_out, 0)
    return -(targets * log_probability).sum(-1).mean()


def rank_of_truth(distances: Tensor, truth: Tensor) -> Tensor:
    """(Q,) how many leaves are nearer to the query than the true one; 0 is a hit."""
    return (distances < distances.gather(1, truth.unsqueeze(1))).sum(1)
