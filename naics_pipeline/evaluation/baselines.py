"""What simple methods reach on the same codes and the same texts: the rows every result is read against."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from naics_pipeline.evaluation.frozen import Encode, FrozenVectors
from naics_pipeline.evaluation.labelled import LabelledTexts
from naics_pipeline.evaluation.retrieval import Queries, search_scores
from naics_pipeline.evaluation.structure import structure_metrics
from naics_pipeline.scorers.mixture import Mixture
from naics_pipeline.scorers.space import CODE, positions
from naics_pipeline.taxonomy.text import TRAIN
from naics_pipeline.taxonomy.tree import Tree

_QUERIES_PER_BLOCK = 512
# Of a long description only its beginning, so that examples find room among the tokens: 0.56 top-1 instead of 0.47.
_DESCRIPTION_CHARACTERS = 200


def baselines(
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    base: str,
    tree: Tree,
    *,
    seed: int,
    sha256: str | None = None,
    device: str = "cpu",
    labelled: pl.DataFrame | None = None,
    cache: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of methods that know nothing of the tree: row → metrics under the usual names.

    tfidf and frozen_text (the base model, not trained) compare a query with each code's text, and codes with one
    another, so these two have structure metrics too. linear_svm learns from the train entries. frozen_centroid compares
    with the mean of a code's title and train entries, frozen_nearest_entry with the nearest of them, and frozen_mixed
    mixes these two as the read-outs of a space are mixed.

    Args:
        index_entries: code, entry, split, and repeated where metrics without repeated entries are wanted.
        base, sha256: the base model and what its weights must hash to, as in `encode_texts`.
        seed: of the SVM's coordinate descent.
        device: where the base model runs.
        labelled: rows of `labelled.read_labelled`, asked of every method.
        cache: directory where the base model's vectors are kept for the next time.
    """
    corpus = _Corpus(descriptions, index_entries, labelled)
    rows: dict[str, dict[str, float]] = {}
    encode = FrozenVectors(base, sha256, device, cache)
    for method in (_tfidf(corpus), _linear_svm(corpus, seed), _frozen(corpus, encode)):
        for row in method:
            rows[row.name] = corpus.metrics(row)
            if row.codes is not None:
                rows[row.name] |= structure_metrics(row.codes, tree)
    return rows


def _joined(codes: pl.DataFrame, description: pl.Expr) -> list[str]:
    text = pl.concat_str("title", description, pl.col("examples").list.join("; "), separator=". ", ignore_nulls=True)
    return codes.select(text.alias("text"))["text"].to_list()


@dataclass(frozen=True)
class _Row:
    """A method's scores: (Q, L) of the texts asked, less is better, and (N, N) between codes where it has such.

    Scores that are negative probabilities are averaged over the parts of labelled texts, too.
    """

    name: str
    asked: np.ndarray
    codes: np.ndarray | None = None
    is_probability: bool = False


class _Corpus:
    """The texts: of all codes in code order, of train entries, and those asked; six-digit codes are candidates.

    Asked are validation and held-out entries, then labelled texts and their parts.
    """

    def __init__(self, descriptions: pl.DataFrame, index_entries: pl.DataFrame, labelled: pl.DataFrame | None) -> None:
        codes = descriptions.sort("code")
        self.texts = _joined(codes, pl.col("description"))
        self.short_texts = _joined(codes, pl.col("description").str.slice(0, _DESCRIPTION_CHARACTERS))
        self.is_candidate: np.ndarray = (codes["level"] == 6).to_numpy()
        self.candidates = codes["code"].to_numpy().astype(np.str_)[self.is_candidate]
        self.titles: list[str] = codes["title"].filter(pl.Series(self.is_candidate)).to_list()
        train = index_entries.filter(pl.col("split") == TRAIN).sort("code", maintain_order=True)
        self.train, self.labels = train["entry"].to_list(), train["code"].to_numpy().astype(np.str_)
        entries = index_entries.filter(pl.col("split") != TRAIN)
        self.queries = Queries.of(entries["code"].to_numpy(), entries)
        self.entries: list[str] = entries["entry"].to_list()
        self.labelled_texts: list[str] = [] if labelled is None else labelled["text"].to_list()
        self.labelled = None if labelled is None else LabelledTexts.of(labelled, self.candidates)
        self.asked = [*self.entries, *self.labelled_texts]

    def by_candidate(self, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Scores per code (Q, K) as distances per candidate (Q, L): less is better, inf where a code has no score."""
        distances = np.full((len(scores), len(self.candidates)), np.inf)
        distances[:, np.searchsorted(self.candidates, codes)] = -scores
        return distances

    def metrics(self, row: _Row) -> dict[str, float]:
        """Of entries and, where there are such, of labelled texts."""
        entries, labelled = np.split(row.asked, [len(self.entries)])
        metrics = search_scores({CODE: entries}, self.candidates, self.queries).metrics
        if self.labelled is None:
            return metrics
        return metrics | self.labelled.metrics({CODE: labelled}, -labelled if row.is_probability else None)

    def mixed(self, code: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """Both read-outs of the asked texts as one, fitted on the validation entries."""
        known = np.flatnonzero(self.queries.validation)
        right = positions(self.candidates, self.queries.codes[known])
        return -Mixture.fit(code[known], entry[known], right).probabilities(code, entry)


def _tfidf(corpus: _Corpus) -> Iterator[_Row]:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    codes = vectorizer.fit_transform(corpus.texts)
    found = np.empty((0, len(corpus.candidates)))
    if corpus.asked:
        found = (vectorizer.transform(corpus.asked) @ codes[corpus.is_candidate].T).toarray()
    yield _Row("tfidf", 1 - found, 1 - (codes @ codes.T).toarray())


def _linear_svm(corpus: _Corpus, seed: int) -> Iterator[_Row]:
    known = np.unique(corpus.labels)
    if len(known) < 2 or not corpus.asked:
        return
    words = TfidfVectorizer(sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=2, sublinear_tf=True)
    train = hstack([words.fit_transform(corpus.train), characters.fit_transform(corpus.train)]).tocsr()
    asked = hstack([words.transform(corpus.asked), characters.transform(corpus.asked)]).tocsr()
    # A looser tolerance costs nothing in accuracy and halves the time of a thousand one-against-rest problems.
    model = LinearSVC(tol=0.1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, corpus.labels)
    scores = model.decision_function(asked)
    if scores.ndim == 1:
        scores = np.column_stack([-scores, scores])
    yield _Row("linear_svm", corpus.by_candidate(scores, known))


def _frozen(corpus: _Corpus, encode: Encode) -> Iterator[_Row]:
    asked = np.concatenate([encode("entries", corpus.entries), encode("labelled", corpus.labelled_texts)])
    codes = encode("codes", corpus.short_texts)
    similarity = (codes @ codes.T).astype(np.float64)
    yield _Row("frozen_text", 1 - asked @ codes[corpus.is_candidate].T, 1 - (similarity + similarity.T) / 2)
    yield from _frozen_entries(corpus, asked, encode("examples", [*corpus.train, *corpus.titles]))


def _frozen_entries(corpus: _Corpus, asked: np.ndarray, phrases: np.ndarray) -> Iterator[_Row]:
    owner = np.concatenate([corpus.labels, corpus.candidates])
    order = np.argsort(owner, kind="stable")
    # Every candidate has a title, so these are the candidates.
    _, first = np.unique(owner[order], return_index=True)
    phrases = phrases[order]
    means = np.add.reduceat(phrases, first, axis=0)
    centroids = means / np.linalg.norm(means, axis=1, keepdims=True)
    nearest = np.empty((len(asked), len(first)), dtype=np.float32)
    for start in range(0, len(asked), _QUERIES_PER_BLOCK):
        block = slice(start, start + _QUERIES_PER_BLOCK)
        nearest[block] = np.maximum.reduceat(asked[block] @ phrases.T, first, axis=1)
    by_centroid, by_entry = (1 - scores.astype(np.float64) for scores in (asked @ centroids.T, nearest))
    yield _Row("frozen_centroid", by_centroid)
    yield _Row("frozen_nearest_entry", by_entry)
    yield _Row("frozen_mixed", corpus.mixed(by_centroid, by_entry), is_probability=True)
