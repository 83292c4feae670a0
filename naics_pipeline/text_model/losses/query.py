"""Query loss: free text lands beside the six-digit code it belongs to."""

import math

from torch import Tensor

from naics_pipeline.text_model.losses.view import Queries, Scalars, View

# Softmax of -4 T leaves e⁻⁸ for the nearest relative of a six-digit code, and the same share to every six-digit
# descendant of a broader one: one formula for queries whose code is not a leaf of the tree.
SHARPNESS = 4.0


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's queries against all leaves."""
    if view.queries is None:
        return None
    queries, tree, weights = view.queries, view.tree, scalars.weights
    distances = leaf_distances(view, queries)
    below, away = relatives(view, queries)
    confusing = tree.leaves_below(queries.under) & (queries.under >= 0).unsqueeze(-1) & ~below
    left_out = None
    if view.unseen is not None:
        left_out = away.isinf()
        confusing &= ~view.unseen[queries.under][:, tree.leaves]
        # A query with no leaf of its own left would be sent to a stranger's.
        kept = (below & ~left_out).any(1)
        away, distances = away[kept], distances[kept]
        confusing, left_out = confusing[kept], left_out[kept]
    targets = query_targets(away, weights.query_smoothing)
    return query_loss(distances, targets, scalars.query_temperature, confusing, weights.query_margin, left_out)


def relatives(view: View, queries: Queries) -> tuple[Tensor, Tensor]:
    """Of each query's code: which leaves it is or lies above, (Q, L) bool, and edges to each, +inf to one unseen."""
    tree = view.tree
    away = tree.tree_distance[queries.code][:, tree.leaves].float()
    if view.unseen is not None:
        away = away.masked_fill(view.unseen[queries.code][:, tree.leaves], math.inf)
    return tree.leaves_below(queries.code), away


def leaf_distances(view: View, queries: Queries) -> Tensor:
    """(Q, L) from each query to every leaf; to its own one as that is without the query."""
    distances = view.space.distances(queries.points, view.points[view.tree.leaves])
    if queries.own is None:
        return distances
    column = view.tree.leaf_of[queries.code]
    rows = (column >= 0).nonzero().squeeze(-1)
    to_own = view.space.paired_distances(queries.points[rows], queries.own[rows])
    return distances.index_put((rows, column[rows]), to_own)


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
