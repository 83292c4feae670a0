"""What words a text shares with the texts of each code: a name or a spelling that no vector knows."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from naics_pipeline.scorers.scorer import owners, words_of
from naics_pipeline.scorers.term_weights import TermWeights
from naics_pipeline.text_model.embeddings import Embeddings

PARTS = (3, 5)
_WORDS_KEPT = 50_000
_WORD = re.compile(r"[^\W\d_]{3,}")
_TINY = np.finfo(np.float32).tiny
_SPEAKS = 0.03
"""Cosine from which a word speaks for a code; below, a few letters are alike by chance."""


class LexicalScorer:
    """What the TF-IDF vector of a text has in that of all texts of a code as one, which is of length 1.

    A text's own vector keeps its length: a sentence that shares three words with a code says as much as those words
    alone, whatever else it holds. By the cosine it would say less the longer it is.

    Args:
        options: of scikit-learn's `TfidfVectorizer`. Parts of words, three to five characters, serve beside vectors a
            little better than whole ones, though alone they find fewer codes: they bear with spelling and inflection.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options or {"analyzer": "char_wb", "ngram_range": PARTS}

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Joins the texts of each code.

        Raises:
            ModelError: the texts come without their words.
        """
        # A search reads what was learned: the second that this import takes would be a third of its start.
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import normalize

        owner, words = owners(texts, codes), words_of(texts)
        documents: list[list[str]] = [[] for _ in codes.codes]
        for code, text in zip(owner.tolist(), words, strict=True):
            if code >= 0:
                documents[code].append(text)
        vectorizer = TfidfVectorizer(sublinear_tf=True, norm=None, dtype=np.float32, **self._options)
        weights = normalize(vectorizer.fit_transform(["; ".join(document) for document in documents]))
        terms = vectorizer.get_feature_names_out().tolist()
        self.learned, self._vectors = TermWeights(weights, vectorizer.idf_, terms), vectorizer.transform
        return self

    @classmethod
    def restored(cls, learned: TermWeights) -> Self:
        """The scorer that `learned` this."""
        scorer = cls()
        scorer.learned, scorer._vectors = learned, PartsOfWords(learned.terms, learned.idf)
        return scorer

    def shared_words(self, text: str, columns: np.ndarray) -> list[list[str]]:
        """For each of the codes in some columns the words of a text that speak for it, the strongest first."""
        words = list(dict.fromkeys(_WORD.findall(text)))
        if not words:
            return [[] for _ in columns]
        vectors = self._vectors(words)
        length = np.sqrt(vectors.multiply(vectors).sum(axis=1)).clip(min=_TINY)
        said = np.asarray((vectors @ self.learned.by_term).toarray()[:, columns] / length)
        order = np.argsort(-said, axis=0, kind="stable")
        return [[words[row] for row in order[:, place] if said[row, place] > _SPEAKS] for place in range(len(columns))]

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float32 from 0."""
        words = words_of(texts)
        if not words:
            return np.empty((0, self.learned.weights.shape[0]), dtype=np.float32)
        found: np.ndarray = (self._vectors(words) @ self.learned.by_term).toarray()
        return found


class PartsOfWords:
    """TF-IDF vectors of texts, as scikit-learn's `TfidfVectorizer` with these terms makes them, without its import.

    Args:
        terms: parts of words in lower case, a blank where a word begins or ends, in the order of the columns.
        idf: (terms,) what each counts.
    """

    def __init__(self, terms: Sequence[str], idf: np.ndarray) -> None:
        self._column = {term: column for column, term in enumerate(terms)}
        self._idf = idf.astype(np.float32)
        # Of a batch of short texts most words occur again.
        self._columns = lru_cache(maxsize=_WORDS_KEPT)(self._columns_of)

    def __call__(self, texts: list[str]) -> csr_matrix:
        """(n, terms) float32."""
        counts = [Counter(chain.from_iterable(map(self._columns, text.lower().split()))) for text in texts]
        indptr = np.cumsum([0, *map(len, counts)])
        columns = np.fromiter((column for count in counts for column in count), np.int32, indptr[-1])
        times = np.fromiter((n for count in counts for n in count.values()), np.float32, indptr[-1])
        values = (1 + np.log(times)) * self._idf[columns]
        return csr_matrix((values, columns, indptr), shape=(len(texts), len(self._column)))

    def _columns_of(self, word: str) -> list[int]:
        """The known ones among the runs of three to five characters of a word with a blank before and after it.

        Of a shorter one all are one run.
        """
        padded = f" {word} "
        found = []
        for size in range(PARTS[0], PARTS[1] + 1):
            found += [padded[at : at + size] for at in range(max(1, len(padded) - size + 1))]
            if len(padded) <= size:
                break
        return [self._column[part] for part in found if part in self._column]
