"""What simple methods reach on the same codes and the same texts: the rows every result is read against."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from naics_pipeline.evaluation.frozen import Encode
from naics_pipeline.evaluation.influence import pair_scores
from naics_pipeline.evaluation.labelled import PARTS, LabelledTexts
from naics_pipeline.evaluation.retrieval import Queries, search_scores
from naics_pipeline.evaluation.runs.scores import scores_frame, scores_of_texts, text_keys
from naics_pipeline.evaluation.structure import EXACT_CODES, structure_scores
from naics_pipeline.evaluation.tasks import task_scores
from naics_pipeline.scorers.blend import Probable
from naics_pipeline.scorers.centroid import CentroidScorer
from naics_pipeline.scorers.embedding import EmbeddingScorer
from naics_pipeline.scorers.ensemble import CODE, ENTRY, CalibratedBlend, scores_of
from naics_pipeline.scorers.lexical import LexicalScorer
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.scorer import Scorer, positions, words_of
from naics_pipeline.scorers.support_vectors import SupportVectorScorer
from naics_pipeline.taxonomy.text import TRAIN
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

# Of a long description only its beginning, so that examples find room among the tokens: 0.56 top-1 instead of 0.47.
_DESCRIPTION_CHARACTERS = 200


@dataclass(frozen=True)
class Baseline:
    """What a method reaches.

    Attributes:
        metrics: under the usual names.
        scores: of each code, entry and labelled text, as `runs.scores.scores_frame` gives them.
    """

    metrics: dict[str, float]
    scores: pl.DataFrame


def baselines(
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    encode: Encode,
    tree: Tree,
    *,
    seed: int,
    places: Embeddings | None = None,
    labelled: pl.DataFrame | None = None,
) -> dict[str, Baseline]:
    """Methods that know nothing of the tree, by name.

    tfidf and frozen_text (the base model, not trained) compare a query with each code's text, and codes with one
    another, so these two have structure metrics too. linear_svm learns from the entries. frozen_centroid compares with
    the middle of the texts below a code, frozen_nearest_entry with the nearest of them, and frozen_mixed blends these
    two as those of a space are blended. All know the entries that scorers of a space know (`ensemble.learn`).

    Args:
        index_entries: code, entry, split, and repeated where metrics without repeated entries are wanted.
        encode: the base model, as a rule a `FrozenVectors`.
        seed: of the SVM's coordinate descent and of the tasks' folds.
        places: the texts below the codes of a space (kind, text), so that the frozen base knows what the space knows;
            None: titles and train entries alone, all alike.
        labelled: rows of `labelled.read_labelled`, asked of every method.
    """
    corpus = _Corpus(descriptions, index_entries, places, labelled)
    methods = (_tfidf(corpus), _linear_svm(corpus, seed), _frozen(corpus, encode))
    return {row.name: corpus.measured(row, tree, seed) for method in methods for row in method}


def _joined(codes: pl.DataFrame, description: pl.Expr) -> list[str]:
    text = pl.concat_str("title", description, pl.col("examples").list.join("; "), separator=". ", ignore_nulls=True)
    return codes.select(text.alias("text"))["text"].to_list()


def _first_codes(labelled: pl.DataFrame) -> list[str]:
    """What labelled texts go by among the codes: the first of those given, which need not be a candidate."""
    return labelled["codes"].list.first().fill_null("").to_list()


def _words(codes: np.ndarray, texts: list[str]) -> Embeddings:
    """Texts that are words alone."""
    return Embeddings(
        codes, np.zeros((len(texts), 0)), columns=pl.DataFrame({"text": texts}, schema={"text": pl.String})
    )


def _vectors(texts: Embeddings, vectors: np.ndarray) -> Embeddings:
    """The texts as vectors of length 1, compared by their angle."""
    return Embeddings(texts.codes, vectors, geometry="cosine", columns=texts.columns)


@dataclass(frozen=True)
class _Row:
    """A method's scores: (Q, L) of the texts asked, more is better, and (N, N) distances between codes if it has any.

    A blend's answers are measured with the parts of labelled texts, too.
    """

    name: str
    asked: np.ndarray
    codes: np.ndarray | None = None
    blended: Probable | None = None


class _Corpus:
    """The texts: of all codes in code order, below them, and those asked; six-digit codes are candidates.

    Asked are validation and held-out entries, then labelled texts and their parts.
    """

    def __init__(
        self,
        descriptions: pl.DataFrame,
        index_entries: pl.DataFrame,
        places: Embeddings | None,
        labelled: pl.DataFrame | None,
    ) -> None:
        frame = descriptions.sort("code")
        self.texts = _joined(frame, pl.col("description"))
        self.short_texts = _joined(frame, pl.col("description").str.slice(0, _DESCRIPTION_CHARACTERS))
        self.codes = frame["code"].to_numpy().astype(np.str_)
        self.is_candidate: np.ndarray = (frame["level"] == 6).to_numpy()
        self.candidates = self.codes[self.is_candidate]
        self.titles = _words(self.candidates, frame["title"].filter(pl.Series(self.is_candidate)).to_list())
        train = index_entries.filter(pl.col("split") == TRAIN).sort("code", maintain_order=True)
        self.train = _words(train["code"].to_numpy().astype(np.str_), train["entry"].to_list())
        if places is None:
            owners = np.concatenate([self.candidates, self.train.codes])
            places = _words(owners, words_of(self.titles) + words_of(self.train))
        self.places = places
        entries = index_entries.filter(pl.col("split") != TRAIN)
        self.queries = Queries.of(entries["code"].to_numpy(), entries)
        self.entries: list[str] = entries["entry"].to_list()
        self.labelled_texts: list[str] = [] if labelled is None else labelled["text"].to_list()
        self.labelled = None if labelled is None else LabelledTexts.of(labelled, self.candidates)
        self.keys = text_keys(entries["code"].to_list(), self.entries)
        self.labelled_keys = None if labelled is None else text_keys(_first_codes(labelled), self.labelled_texts)
        self.asked = _words(
            np.concatenate([self.queries.codes, np.full(len(self.labelled_texts), "")]),
            [*self.entries, *self.labelled_texts],
        )
        self.validation = np.concatenate([self.queries.validation, np.zeros(len(self.labelled_texts), dtype=bool)])

    def measured(self, row: _Row, tree: Tree, seed: int) -> Baseline:
        """Of entries, of labelled texts where there are such, and of codes where the method tells them apart."""
        entries, labelled = np.split(row.asked, [len(self.entries)])
        found, keys = search_scores({CODE: -entries}, self.candidates, self.queries), self.labelled_keys
        if self.labelled is not None:
            of_labelled = np.arange(len(self.entries), len(row.asked))
            given = {CODE: -labelled}, {} if row.blended is None else {PARTS: row.blended.at(of_labelled)}
            found.metrics.update(self.labelled.metrics(*given))
            found = replace(found, by_text=self.labelled.scores(*given), texts=self.labelled.whole)
        scores = scores_of_texts(found, self.keys, keys)
        if row.codes is None:
            return Baseline(found.metrics, scores)
        structure = structure_scores(row.codes, tree)
        metrics, by_code = found.metrics | structure.metrics, structure.by_code
        if len(tree) <= EXACT_CODES:
            tasks = task_scores(row.codes, tree, seed=seed)
            metrics, by_code = metrics | tasks.metrics, by_code | pair_scores(row.codes, tree) | tasks.by_code
        return Baseline(metrics, pl.concat([scores_frame(tree.codes, by_code), scores]))

    def blended(self, scores: dict[str, np.ndarray]) -> Probable:
        """What scorers together say of the asked texts, fitted on the validation entries."""
        right = positions(self.candidates, self.asked.codes[self.validation])
        blend = CalibratedBlend.fit({name: values[self.validation] for name, values in scores.items()}, right)
        return blend.probable(scores)


def _tfidf(corpus: _Corpus) -> Iterator[_Row]:
    codes = _words(corpus.codes, corpus.texts)
    scorer = LexicalScorer(ngram_range=(1, 2), strip_accents="unicode").fit(codes, codes)
    cosine = (scorer.learned.weights @ scorer.learned.weights.T).toarray()
    yield _Row("tfidf", scorer.scores(corpus.asked)[:, corpus.is_candidate], 1 - np.minimum(cosine, 1))


def _linear_svm(corpus: _Corpus, seed: int) -> Iterator[_Row]:
    if len(np.unique(corpus.train.codes)) < 2:
        return
    scorers = {CODE: SupportVectorScorer(seed)}
    scores = scores_of(scorers, corpus.train, corpus.titles, corpus.asked, corpus.validation)
    yield _Row("linear_svm", scores[CODE])


def _frozen(corpus: _Corpus, encode: Encode) -> Iterator[_Row]:
    vectors = np.concatenate([encode("entries", corpus.entries), encode("labelled", corpus.labelled_texts)])
    asked = _vectors(corpus.asked, vectors)
    codes = _vectors(_words(corpus.codes, corpus.short_texts), encode("codes", corpus.short_texts))
    candidates = codes.at(corpus.is_candidate)
    between = -EmbeddingScorer().fit(codes, codes).scores(codes)
    yield _Row("frozen_text", EmbeddingScorer().fit(codes, candidates).scores(asked), (between + between.T) / 2)
    known = _vectors(corpus.places, encode("places", words_of(corpus.places)))
    scorers: dict[str, Scorer] = {CODE: CentroidScorer(), ENTRY: NearestEntryScorer()}
    scores = scores_of(scorers, known, candidates, asked, corpus.validation)
    yield _Row("frozen_centroid", scores[CODE])
    yield _Row("frozen_nearest_entry", scores[ENTRY])
    mixed = corpus.blended(scores)
    yield _Row("frozen_mixed", mixed.chances, blended=mixed)
