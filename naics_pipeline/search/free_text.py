"""Free text among the six-digit codes of a space."""

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.scorers.mixture import Mixture
from naics_pipeline.scorers.space import CODE, ENTRY, MIXED, SpaceReadouts, positions, with_mixed
from naics_pipeline.taxonomy.text import VALIDATION
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
    readouts = SpaceReadouts(space, places)
    known = queries.at(queries.columns["split"].to_numpy() == VALIDATION)
    mixture = _fitted(readouts, known)
    distances = with_mixed(readouts.distances(texts), mixture)
    order = np.argsort(distances[MIXED], axis=1, kind="stable")[:, :k]
    return pl.DataFrame(
        {
            "text": np.repeat(texts.columns["text"].to_numpy(), order.shape[1]),
            "rank": np.tile(np.arange(1, order.shape[1] + 1), len(order)),
            "code": readouts.candidates[order].ravel().tolist(),
            "distance": np.take_along_axis(distances[CODE], order, axis=1).ravel(),
        }
    )


def _fitted(readouts: SpaceReadouts, queries: Embeddings) -> Mixture:
    distances = readouts.distances(queries)
    return Mixture.fit(distances[CODE], distances[ENTRY], positions(readouts.candidates, queries.codes))
