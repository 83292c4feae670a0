"""How near a text lies to the title of each code, as the base model reads both."""

from typing import Self

import numpy as np

from naics_pipeline.errors import ModelError
from naics_pipeline.scorers.scorer import owners, products, vectors_of
from naics_pipeline.text_model.embeddings import Embeddings

KIND = "title"
"""What a title is among the texts below a code."""


class TitleScorer:
    """Cosine of the base's vectors of a text and of each code's title.

    The texts of the index are particular: "Tomato farming, under cover". A description can be as general as a title,
    "All types of plumbing and heating", and lies near entries of codes that have little to do with it.
    """

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Takes the titles from the texts; a code without one scores 0.

        Raises:
            ModelError: the texts come without their kind, or without the base's vectors.
        """
        if "kind" not in texts.columns:
            raise ModelError(
                "the texts have no column 'kind', and this scorer reads titles: give them with their kind."
            )
        titles = texts.at((texts.columns["kind"] == KIND).to_numpy())
        owner, vectors = owners(titles, codes), vectors_of(titles)
        self.vectors = np.zeros((len(codes.codes), vectors.shape[1]), dtype=np.float32)
        self.vectors[owner[owner >= 0]] = vectors[owner >= 0]
        return self

    @classmethod
    def restored(cls, vectors: np.ndarray) -> Self:
        """The scorer of these `vectors` of titles, (L, width)."""
        scorer = cls()
        scorer.vectors = vectors
        return scorer

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float32, -1 to 1.

        Raises:
            ModelError: the texts come without the base's vectors.
        """
        return products(vectors_of(texts), self.vectors)
