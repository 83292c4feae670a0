"""Retention loss: what the adapter says of a text stays near what the base says of it."""

from torch import Tensor

from naics_pipeline.text_model.losses.view import Scalars, View


def term(view: View, scalars: Scalars) -> Tensor | None:
    """Of the view's queries that were read afresh."""
    if view.queries is None or view.queries.tuned is None or view.queries.base is None:
        return None
    return retention_loss(view.queries.tuned, view.queries.base)


def retention_loss(tuned: Tensor, base: Tensor) -> Tensor:
    """Mean of 1 - cos(tuned, base), which is half the squared distance: features are kept, not weights.

    A model fitted to the words of an index forgets what its base knew of sentences: without this the adapter finds less
    in descriptions by business owners than the base does. DELTA (Li et al., 2019) without its attention.

    Args:
        tuned, base: (Q, width), of length 1.
    Returns: scalar.
    """
    return 1 - (tuned * base).sum(-1).mean()
