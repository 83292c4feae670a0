"""What simple methods reach on the same codes and the same held-out entries: the rows every result is read against."""

import warnings
from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.sparse import hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from naics_pipeline.evaluation.retrieval import query_metrics
from naics_pipeline.evaluation.structure import structure_metrics
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.base import encode_texts

_QUERIES_PER_BLOCK = 512
_CODE_TOKENS = 128
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
) -> dict[str, dict[str, float]]:
    """Metrics of four methods that know nothing of the tree: row → metrics under the usual names.

    tfidf and frozen_text (the base model, not trained) compare a query with each code's text, and codes with one
    another, so these two have structure metrics too. linear_svm learns from the train entries; frozen_nearest_entry
    goes to the code whose nearest train entry, or title, is most similar.

    Args:
        base, sha256: the base model and what its weights must hash to, as in `encode_texts`.
        seed: of the SVM's coordinate descent.
        device: where the base model runs.
    """
    corpus = _Corpus(descriptions, index_entries)
    rows: dict[str, dict[str, float]] = {}
    methods = [_tfidf(corpus), _linear_svm(corpus, seed), _frozen(corpus, base, sha256, device)]
    for name, queries, codes in (row for method in methods for row in method):
        rows[name] = query_metrics(queries, corpus.candidates, corpus.truth)
        if codes is not None:
            rows[name] |= structure_metrics(codes, tree)
    return rows


def _joined(codes: pl.DataFrame, description: pl.Expr) -> list[str]:
    text = pl.concat_str("title", description, "examples", separator=". ", ignore_nulls=True)
    return codes.select(text.alias("text"))["text"].to_list()


_Row = tuple[str, np.ndarray, np.ndarray | None]


class _Corpus:
    """The texts: of all codes in code order, of train and held-out entries; six-digit codes are the candidates."""

    def __init__(self, descriptions: pl.DataFrame, index_entries: pl.DataFrame) -> None:
        codes = descriptions.sort("code")
        self.titles: list[str] = codes["title"].to_list()
        self.texts = _joined(codes, pl.col("description"))
        self.short_texts = _joined(codes, pl.col("description").str.slice(0, _DESCRIPTION_CHARACTERS))
        self.is_candidate: np.ndarray = (codes["level"] == 6).to_numpy()
        self.candidates = codes["code"].to_numpy().astype(np.str_)[self.is_candidate]
        train = index_entries.filter(pl.col("split") == "train").sort("code", maintain_order=True)
        held_out = index_entries.filter(pl.col("split") == "held_out")
        self.train, self.queries = train["entry"].to_list(), held_out["entry"].to_list()
        self.labels, self.truth = (frame["code"].to_numpy().astype(np.str_) for frame in (train, held_out))

    def by_candidate(self, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Scores per code (Q, K) as distances per candidate (Q, L): less is better, inf where a code has no score."""
        distances = np.full((len(scores), len(self.candidates)), np.inf)
        distances[:, np.searchsorted(self.candidates, codes)] = -scores
        return distances


def _tfidf(corpus: _Corpus) -> Iterator[_Row]:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    codes = vectorizer.fit_transform(corpus.texts)
    found = np.empty((0, len(corpus.candidates)))
    if corpus.queries:
        found = (vectorizer.transform(corpus.queries) @ codes[corpus.is_candidate].T).toarray()
    yield "tfidf", 1 - found, 1 - (codes @ codes.T).toarray()


def _linear_svm(corpus: _Corpus, seed: int) -> Iterator[_Row]:
    known = np.unique(corpus.labels)
    if len(known) < 2 or not corpus.queries:
        return
    words = TfidfVectorizer(sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=2, sublinear_tf=True)
    train = hstack([words.fit_transform(corpus.train), characters.fit_transform(corpus.train)]).tocsr()
    queries = hstack([words.transform(corpus.queries), characters.transform(corpus.queries)]).tocsr()
    # A looser tolerance costs nothing in accuracy and halves the time of a thousand one-against-rest problems.
    model = LinearSVC(tol=0.1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, corpus.labels)
    scores = model.decision_function(queries)
    if scores.ndim == 1:
        scores = np.column_stack([-scores, scores])
    yield "linear_svm", corpus.by_candidate(scores, known), None


def _frozen(corpus: _Corpus, base: str, sha256: str | None, device: str) -> Iterator[_Row]:
    titles = np.array(corpus.titles, dtype=object)[corpus.is_candidate].tolist()
    parts = [corpus.short_texts, [*corpus.train, *titles], corpus.queries]
    vectors = encode_texts(base, [text for part in parts for text in part], _CODE_TOKENS, sha256=sha256, device=device)
    codes, phrases, queries = np.split(vectors, np.cumsum([len(part) for part in parts[:-1]]))
    similarity = (codes @ codes.T).astype(np.float64)
    yield "frozen_text", 1 - queries @ codes[corpus.is_candidate].T, 1 - (similarity + similarity.T) / 2

    owner = np.concatenate([corpus.labels, corpus.candidates])
    order = np.argsort(owner, kind="stable")
    known, first = np.unique(owner[order], return_index=True)
    phrases = phrases[order]
    nearest = np.empty((len(queries), len(known)), dtype=np.float32)
    for start in range(0, len(queries), _QUERIES_PER_BLOCK):
        block = slice(start, start + _QUERIES_PER_BLOCK)
        nearest[block] = np.maximum.reduceat(queries[block] @ phrases.T, first, axis=1)
    yield "frozen_nearest_entry", corpus.by_candidate(nearest, known), None
