"""Free text among the six-digit codes of a space."""

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.scorers.ensemble import CODE, CalibratedBlend, scorers_of_space
from naics_pipeline.scorers.scorer import positions
from naics_pipeline.taxonomy.text import VALIDATION
from naics_pipeline.taxonomy.tree import LEVELS
from naics_pipeline.text_model.embeddings import Embeddings


def search(texts: Embeddings, space: Embeddings, places: Embeddings, queries: Embeddings, k: int = 5) -> pl.DataFrame:
    """The k codes that suit each text best, by the mixture of both read-outs: text, rank, code, distance.

    Args:
        texts: free texts as points of the space, with their words in the column text.
        space: points of all codes.
        places: texts below their codes.
        queries: index entries with their right codes; the mixture is fitted on those of the validation split.
    Returns: `distance` is that from the text to the code's own point.
    Raises:
        NaicsError: k is below 1.
    """
    if k < 1:
        raise NaicsError(f"asked for the {k} nearest codes: ask for at least one.")
    codes = space.at(space.level == max(LEVELS))
    scorers = {name: scorer.fit(places, codes) for name, scorer in scorers_of_space().items()}
    known = queries.at(queries.columns["split"].to_numpy() == VALIDATION)
    right = positions(codes.codes, known.codes)
    blend = CalibratedBlend.fit({name: scorer.scores(known) for name, scorer in scorers.items()}, right)
    scores = {name: scorer.scores(texts) for name, scorer in scorers.items()}
    order = np.argsort(-blend.probabilities(scores), axis=1, kind="stable")[:, :k]
    return pl.DataFrame(
        {
            "text": np.repeat(texts.columns["text"].to_numpy(), order.shape[1]),
            "rank": np.tile(np.arange(1, order.shape[1] + 1), len(order)),
            "code": codes.codes[order].ravel().tolist(),
            "distance": -np.take_along_axis(scores[CODE], order, axis=1).ravel(),
        }
    )
