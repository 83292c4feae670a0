"""What words a text shares with the texts of each code: a name or a spelling that no vector knows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from naics_pipeline.scorers.scorer import owners, words_of
from naics_pipeline.text_model.embeddings import Embeddings

_WORD = re.compile(r"[^\W\d_]{3,}")
_SPEAKS = 0.03
"""Cosine from which a word speaks for a code; below, a few letters are alike by chance."""


class LexicalScorer:
    """Cosine of TF-IDF vectors of the text and of all texts of a code as one.

    Args:
        options: of scikit-learn's `TfidfVectorizer`. Parts of words, three to five characters, serve beside vectors a
            little better than whole ones, though alone they find fewer codes: they bear with spelling and inflection.
    """

    def __init__(self, **options: Any) -> None:
        parts: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (3, 5)}
        self.vectorizer = TfidfVectorizer(**{"sublinear_tf": True, "dtype": np.float32, **(options or parts)})

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Joins the texts of each code.

        Raises:
            ModelError: the texts come without their words.
        """
        owner, words = owners(texts, codes), words_of(texts)
        documents: list[list[str]] = [[] for _ in codes.codes]
        for code, text in zip(owner.tolist(), words, strict=True):
            if code >= 0:
                documents[code].append(text)
        self._keep(self.vectorizer.fit_transform(["; ".join(document) for document in documents]))
        return self

    def state(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """What `fit` learned: arrays by name, and the terms in the order of their columns."""
        weights = self.weights
        arrays = {
            "idf": self.vectorizer.idf_,
            "data": weights.data,
            "indices": weights.indices,
            "indptr": weights.indptr,
        }
        return arrays, self.vectorizer.get_feature_names_out().tolist()

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], terms: Sequence[str]) -> Self:
        """The scorer of a `state`."""
        scorer = cls()
        scorer.vectorizer.set_params(vocabulary={term: column for column, term in enumerate(terms)})
        scorer.vectorizer.idf_ = arrays["idf"]
        shape = (len(arrays["indptr"]) - 1, len(terms))
        scorer._keep(csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape))
        return scorer

    def _keep(self, weights: csr_matrix) -> None:
        # Transposed once: of one text that would take longer than the product.
        self.weights, self._by_term = weights, weights.T.tocsr()

    def shared_words(self, text: str, columns: np.ndarray) -> list[list[str]]:
        """For each of the codes in some columns the words of a text that speak for it, the strongest first."""
        words = list(dict.fromkeys(_WORD.findall(text)))
        if not words:
            return [[] for _ in columns]
        said = (self.vectorizer.transform(words) @ self.weights[columns].T).toarray()
        order = np.argsort(-said, axis=0, kind="stable")
        return [[words[row] for row in order[:, place] if said[row, place] > _SPEAKS] for place in range(len(columns))]

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float32 from 0 to 1."""
        words = words_of(texts)
        if not words:
            return np.empty((0, self.weights.shape[0]), dtype=np.float32)
        found: np.ndarray = (self.vectorizer.transform(words) @ self._by_term).toarray()
        return found
