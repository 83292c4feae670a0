"""How near a text lies to what the classification says a code is, as the base model reads both."""

from typing import Self

import numpy as np

from naics_pipeline.errors import ModelError
from naics_pipeline.scorers.scorer import owners, products, vectors_of
from naics_pipeline.text_model.embeddings import Embeddings

SHARES = {"title": 0.6, "sentence": 0.4}
"""What a code's title counts, and the mean of the sentences that describe it. Chosen among ten sets, with and without
entries, on real descriptions, validation entries, and entries that Census lists for the sample's codes."""

_TINY = np.finfo(np.float32).tiny


class DefinitionScorer:
    """Cosine of the base's vector of a text and of each code's definition: its title and the sentences about it.

    The texts of the index are particular: "Tomato farming, under cover". A description can be as general as a title,
    "All types of plumbing and heating", and lies near entries of codes that have little to do with it.
    """

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Takes titles and sentences from the texts; a code without either scores 0.

        Raises:
            ModelError: the texts come without their kind, or without the base's vectors.
        """
        if "kind" not in texts.columns:
            raise ModelError(
                "the texts have no column 'kind', and this scorer reads titles and sentences: give them with their "
                "kind."
            )
        defined = sum(share * _means(texts, kind, codes) for kind, share in SHARES.items())
        self.vectors = np.asarray(defined / np.linalg.norm(defined, axis=1, keepdims=True).clip(_TINY), np.float32)
        return self

    @classmethod
    def restored(cls, vectors: np.ndarray) -> Self:
        """The scorer of these `vectors` of definitions, (L, width)."""
        scorer = cls()
        scorer.vectors = vectors
        return scorer

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float32, -1 to 1.

        Raises:
            ModelError: the texts come without the base's vectors.
        """
        return products(vectors_of(texts), self.vectors)


def _means(texts: Embeddings, kind: str, codes: Embeddings) -> np.ndarray:
    """(L, width) of each code's texts of a kind; zeros where it has none."""
    chosen = texts.at((texts.columns["kind"] == kind).to_numpy())
    owner, vectors = owners(chosen, codes), vectors_of(chosen)
    owner, vectors = owner[owner >= 0], vectors[owner >= 0]
    total = np.zeros((len(codes.codes), vectors.shape[1]), dtype=np.float32)
    np.add.at(total, owner, vectors)
    return total / np.bincount(owner, minlength=len(total)).clip(min=1)[:, None]
