"""How much of what a text says the words of each code cover, by the same word or by one like it."""

from itertools import chain
from typing import Self

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from naics_pipeline.scorers.scorer import owners, products, words_of
from naics_pipeline.scorers.term_weights import TermWeights
from naics_pipeline.scorers.words import WordTable, words_in
from naics_pipeline.text_model.embeddings import Embeddings

ALIKE = 0.35
"""Cosine from which two words are related; chosen of three on validation entries and real descriptions."""
_ROWS = 1024
_TINY = np.finfo(np.float32).tiny


class RelatedWordsScorer:
    """The share of a text's words that a code's texts have, each as much as its nearest word there is like it.

    A word w counts s(w, c) = max cos(w, w')² over the words w' of code c, and the more, the fewer codes have it or one
    like it: idf(w) = log(L / (Σ_c s(w, c) + ½)). The score is Σ_w idf(w) s(w, c) / √(Σ_w idf(w)): between the sum,
    by which long texts would say too much, and the mean, by which short ones would. Unlike a cosine it asks nothing of
    what else the code's texts say; a code with much to say is not worse for it.

    Args:
        table: says how much words are alike. Words that are neither the table's own nor of any code have no say.
    """

    def __init__(self, table: WordTable | None = None) -> None:
        self._table = table

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Takes the words of each code, and looks for those that are like them.

        Raises:
            ModelError: the texts come without their words.
        """
        # A search reads what was learned: the second that this import takes would be a third of its start.
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        assert self._table is not None, "a scorer that was restored is not fitted again"
        has = pl.DataFrame(
            {"code": owners(texts, codes), "known": list(map(words_in, words_of(texts)))},
            schema={"code": pl.Int64, "known": pl.List(pl.String)},
        )
        has = has.filter(pl.col("code") >= 0).explode("known").drop_nulls().unique()
        has = has.filter(~pl.col("known").is_in(list(ENGLISH_STOP_WORDS)))
        known = has["known"].unique().sort().to_list()
        terms = sorted({*known, *self._table.words} - ENGLISH_STOP_WORDS)
        like = _related(self._table.vectors(terms), self._table.vectors(known))
        place = pl.DataFrame({"known": known, "number": np.arange(len(known))}, schema_overrides={"known": pl.String})
        nearest = (
            like.join(has.join(place, on="known"), left_on="known", right_on="number")
            .group_by("term", "code")
            .agg(pl.col("cosine").max())
            .sort("term", "code")
        )
        shape = (len(codes.codes), len(terms))
        position = nearest["code"].to_numpy(), nearest["term"].to_numpy()
        alike = csr_matrix((nearest["cosine"].to_numpy() ** 2, position), shape=shape)
        idf = np.log(shape[0] / (np.asarray(alike.sum(axis=0))[0] + 0.5)).clip(min=0).astype(np.float32)
        self._learn(TermWeights(alike.multiply(idf).tocsr(), idf, terms))
        return self

    @classmethod
    def restored(cls, learned: TermWeights) -> Self:
        """The scorer that `learned` this."""
        scorer = cls()
        scorer._learn(learned)
        return scorer

    def _learn(self, learned: TermWeights) -> None:
        self.learned = learned
        self._column = {term: column for column, term in enumerate(learned.terms)}

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float32 from 0."""
        found = [[self._column[word] for word in words_in(text) if word in self._column] for text in words_of(texts)]
        indptr = np.cumsum([0, *map(len, found)])
        columns = np.fromiter(chain.from_iterable(found), np.int32, indptr[-1])
        said = csr_matrix((np.ones(len(columns), np.float32), columns, indptr), shape=(len(found), len(self._column)))
        length = np.sqrt(said @ self.learned.idf).clip(min=_TINY)
        scores: np.ndarray = (said @ self.learned.by_term).toarray() / length[:, None]
        return scores


def _related(terms: np.ndarray, known: np.ndarray) -> pl.DataFrame:
    """term, known, cosine: the pairs of related words, from (n, width) and (m, width) of length 1."""
    found = []
    for start in range(0, len(terms), _ROWS):
        cosine = products(terms[start : start + _ROWS], known)
        term, other = np.nonzero(cosine > ALIKE)
        found.append(pl.DataFrame({"term": term + start, "known": other, "cosine": cosine[term, other]}))
    return pl.concat(found)
