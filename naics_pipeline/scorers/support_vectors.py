"""A linear SVM over the words and parts of words of a text: the method that any other is measured against."""

import warnings
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from naics_pipeline.scorers.scorer import owners, words_of
from naics_pipeline.text_model.embeddings import Embeddings


class SupportVectorScorer:
    """Signed distances to the boundaries of one-against-rest problems.

    Args:
        seed: of the coordinate descent.
    """

    def __init__(self, seed: int = 0) -> None:
        # A looser tolerance costs nothing in accuracy and halves the time of a thousand one-against-rest problems.
        self._model = LinearSVC(tol=0.1, random_state=seed)
        self._words = TfidfVectorizer(sublinear_tf=True)
        self._characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=2, sublinear_tf=True)

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Learns from texts of at least two codes."""
        owner, words = owners(texts, codes), words_of(texts)
        known = owner >= 0
        words = [text for text, is_known in zip(words, known, strict=True) if is_known]
        features = hstack([self._words.fit_transform(words), self._characters.fit_transform(words)]).tocsr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(features, owner[known])
        self._count = len(codes.codes)
        return self

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float64; a code without texts scores below all others."""
        words, classes = words_of(texts), self._model.classes_
        if not words:
            return np.empty((0, self._count))
        features: csr_matrix = hstack([self._words.transform(words), self._characters.transform(words)]).tocsr()
        decided = self._model.decision_function(features)
        if decided.ndim == 1:
            decided = np.column_stack([-decided, decided])
        found = np.full((len(words), self._count), decided.min() - 1)
        found[:, classes] = decided
        return found
