"""Each scorer on texts where the right code is plain, and what it refuses."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers import nearest_entry
from naics_pipeline.scorers.centroid import SHARES, CentroidScorer
from naics_pipeline.scorers.definition import SHARES as DEFINED_BY
from naics_pipeline.scorers.definition import DefinitionScorer
from naics_pipeline.scorers.embedding import EmbeddingScorer, query_distances
from naics_pipeline.scorers.lexical import LexicalScorer
from naics_pipeline.scorers.linear import LinearScorer
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.scorer import Scorer, owners, positions
from naics_pipeline.scorers.support_vectors import SupportVectorScorer
from naics_pipeline.text_model.embeddings import Embeddings

CODES = np.array(["111120", "111110", "221110", "722511"])
WORDS = ["sunflower", "soybean", "electricity", "restaurant"]


def points(seed: int, n: int, curvature: float = 1.0) -> np.ndarray:
    tangent = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lorentz.exp0(tangent, curvature=curvature).numpy()


def texts(codes: np.ndarray, words: list[str], seed: int = 1, noise: float = 0.05) -> Embeddings:
    """Each with a vector near the axis of the word it begins with."""
    axes = np.eye(len(WORDS))[[next(n for n, word in enumerate(WORDS) if text.startswith(word)) for text in words]]
    vectors = axes + noise * np.random.default_rng(seed).normal(size=axes.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    column = pl.Series("vector", vectors.astype(np.float32), dtype=pl.Array(pl.Float32, len(WORDS)))
    return Embeddings(codes, points(seed, len(words)), columns=pl.DataFrame({"text": words}).with_columns(column))


def codes_of(seed: int = 0) -> Embeddings:
    return Embeddings(CODES, points(seed, len(CODES)))


TRAIN = texts(np.tile(CODES, 2), [*(f"{word} farming" for word in WORDS), *(f"{word} sales" for word in WORDS)])


@pytest.mark.parametrize("scorer", [LexicalScorer(), LinearScorer(), SupportVectorScorer()])
def test_scorers_of_words_and_vectors_find_codes_that_these_tell_apart(scorer: Scorer) -> None:
    asked = texts(CODES[::-1], [f"{word} merchants" for word in WORDS[::-1]], seed=2)
    scores = scorer.fit(TRAIN, codes_of()).scores(asked)
    assert CODES[scores.argmax(axis=1)].tolist() == asked.codes.tolist()
    assert np.isfinite(scores).all()
    assert scorer.scores(asked.at(np.zeros(4, dtype=bool))).shape == (0, 4)


@pytest.mark.parametrize(
    "scorer", [EmbeddingScorer(), NearestEntryScorer(), CentroidScorer(), LexicalScorer(), LinearScorer()]
)
def test_texts_of_other_codes_change_nothing(scorer: Scorer) -> None:
    codes, asked = codes_of(), texts(CODES, WORDS, seed=3)
    stranger = replace(TRAIN.at(np.arange(1)), codes=np.array(["999999"]))
    joined = Embeddings(
        np.concatenate([stranger.codes, TRAIN.codes]),
        np.concatenate([stranger.points, TRAIN.points]),
        columns=pl.concat([stranger.columns, TRAIN.columns]),
    )
    before = scorer.fit(TRAIN, codes).scores(asked)
    assert scorer.fit(joined, codes).scores(asked) == pytest.approx(before)


@pytest.mark.parametrize("scorer", [LexicalScorer(), LinearScorer()])
def test_points_alone_are_refused_by_scorers_that_read_more(scorer: Scorer) -> None:
    with pytest.raises(ModelError, match=r"no column '(text|vector)'"):
        scorer.fit(codes_of(), codes_of())


@pytest.mark.parametrize("scorer", [EmbeddingScorer(), NearestEntryScorer(), CentroidScorer()])
def test_points_of_another_space_are_refused(scorer: Scorer) -> None:
    codes = codes_of()
    with pytest.raises(ModelError, match="queries lie in another space"):
        scorer.fit(codes, codes).scores(replace(codes, geometry="euclidean"))
    with pytest.raises(ModelError, match="places lie in another space"):
        NearestEntryScorer().fit(replace(codes, curvature=2.0), codes)
    with pytest.raises(ModelError, match="places lie in another space"):
        CentroidScorer().fit(replace(codes, curvature=2.0), codes)


def test_points_of_another_training_are_refused_where_both_say_what_they_are_of() -> None:
    codes, other = (replace(made, metadata={"space": made.version}) for made in (codes_of(), codes_of(1)))
    assert codes.version != other.version
    assert codes.version == replace(codes, metadata={}).version
    asked = replace(texts(CODES, WORDS), metadata={"space": other.version})
    with pytest.raises(ModelError, match=f"version {other.version}"):
        EmbeddingScorer().fit(codes, codes).scores(asked)
    assert EmbeddingScorer().fit(other, other).scores(asked).shape == (4, 4)
    assert EmbeddingScorer().fit(codes, codes).scores(replace(asked, metadata={})).shape == (4, 4)


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_a_text_on_each_codes_own_point_reads_as_the_code_does(geometry: str, curvature: float) -> None:
    codes = Embeddings(CODES, points(0, 4, curvature), curvature, geometry)
    asked = Embeddings(CODES, points(1, 4, curvature), curvature, geometry)
    found = NearestEntryScorer().fit(codes.at(np.array([3, 0, 2])), codes).scores(asked)
    assert found == pytest.approx(EmbeddingScorer().fit(codes, codes).scores(asked))
    assert found == pytest.approx(CentroidScorer().fit(codes.at(np.array([3, 0, 2])), codes).scores(asked))
    assert found == pytest.approx(-query_distances(asked.points, codes.points, curvature, geometry))


def test_vectors_of_length_one_are_compared_by_their_angle() -> None:
    vectors = np.array([[1.0, 0.0], [0.6, 0.8]])
    assert query_distances(vectors, vectors, 1.0, "cosine") == pytest.approx(np.array([[0, 0.4], [0.4, 0]]))


@pytest.mark.parametrize("cells", [1, 40, 10**6])
def test_the_nearest_entry_against_a_loop_in_blocks_of_any_size(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_entry, "_CELLS", cells)
    codes, asked = codes_of(), Embeddings(np.repeat("", 9), points(1, 9))
    owner = np.array([2, 0, 0, -1, 2, 3, 2, -1, 0, 3, 3])
    places = Embeddings(np.append(CODES, "999999")[owner], points(2, 11))
    found = NearestEntryScorer().fit(places, codes).scores(asked)
    for code in range(4):
        own = places.points[owner == code] if code != 1 else codes.points[[1]]
        assert found[:, code] == pytest.approx(-query_distances(asked.points, own, 1.0, "lorentz").min(axis=1))


def test_a_search_reads_parts_of_words_as_scikit_learn_does() -> None:
    odd = ["", "a", "Soybean  SOYBEAN soy", "SOYBEAN\tfarming;\x0bsales", "électricité İ 9", "restaurant" * 9, "zzz"]
    fitted = LexicalScorer().fit(TRAIN, codes_of())
    restored = LexicalScorer.restored(fitted.learned)
    asked = texts(np.repeat("", len(odd) + 4), [*WORDS, *(f"{WORDS[0]} {text}" for text in odd)])
    asked = replace(asked, columns=pl.DataFrame({"text": [*WORDS, *odd]}))
    assert restored.scores(asked) == pytest.approx(fitted.scores(asked), rel=1e-5)
    columns = np.arange(2)
    said = "soybean and sunflower farming"
    assert restored.shared_words(said, columns) == fitted.shared_words(said, columns)


def test_what_else_a_text_says_takes_nothing_from_the_words_it_shares() -> None:
    scorer = LexicalScorer().fit(TRAIN, codes_of())
    alone, among_others = scorer.scores(texts(CODES[:2], ["soybean", "soybean xyzzy plugh quux"], seed=1))
    assert alone.max() > 0
    assert among_others == pytest.approx(alone)
    assert scorer.shared_words("soybean xyzzy plugh", np.arange(4)) == scorer.shared_words("soybean", np.arange(4))


def test_the_seed_fixes_what_a_linear_scorer_learns_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (LinearScorer(seed).fit(TRAIN, codes_of()).weights for seed in (1, 1, 2))
    assert (first == second).all()
    assert first.shape == other.shape
    assert torch.rand(1) == expected


def test_positions_hold_whatever_the_order_and_name_what_is_missing() -> None:
    assert positions(CODES, np.array(["221110", "111120"])).tolist() == [2, 0]
    with pytest.raises(ModelError, match="333333"):
        positions(CODES, np.array(["333333"]))
    assert owners(Embeddings(np.array(["111110", "11"]), points(0, 2)), codes_of()).tolist() == [1, -1]


def test_title_and_sentences_define_a_code_and_no_other_text_does() -> None:
    kinds = pl.Series("kind", ["title", "title", "title", "entry"])
    some = texts(np.append(CODES[:3], CODES[0]), [*WORDS[:3], "restaurant as an entry"], noise=0)
    places = replace(some, columns=some.columns.with_columns(kinds))
    asked = texts(CODES, [f"{word} of all types" for word in WORDS], seed=2, noise=0)
    expected = np.eye(4)
    expected[3, 3] = 0
    scorer = DefinitionScorer().fit(places, codes_of())
    assert scorer.scores(asked) == pytest.approx(expected)
    assert DefinitionScorer.restored(scorer.vectors).scores(asked) == pytest.approx(expected)
    with pytest.raises(ModelError, match="kind"):
        DefinitionScorer().fit(some, codes_of())


def test_the_sentences_of_a_code_count_together_what_one_would() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    kinds = {"kind": ["title", "sentence", "sentence", "sentence"], "text": ["a", "b", "c", "d"]}
    columns = pl.DataFrame(kinds).with_columns(pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, 4)))
    places = Embeddings(np.array([CODES[0]] * 3 + [CODES[1]]), points(0, 4), columns=columns)
    found = DefinitionScorer().fit(places, codes_of()).vectors
    title, sentence = DEFINED_BY["title"], DEFINED_BY["sentence"]
    length = np.hypot(title, sentence)
    assert found[0] == pytest.approx([title / length, sentence / length, 0, 0])
    assert found[1] == pytest.approx([0, 0, 1, 0])


@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_a_centroid_weighs_each_kind_of_text_whatever_their_number(curvature: float) -> None:
    tangent = torch.tensor([[2.0, 0, 0], [0, 1.0, 0], [0, 3.0, 0], [0, 0, 2.0]], dtype=torch.float64)
    kinds = pl.DataFrame({"kind": ["title", "entry", "entry", "sentence"]})
    places = Embeddings(np.repeat(CODES[:1], 4), lorentz.exp0(tangent, curvature=curvature).numpy(), curvature)
    codes = Embeddings(CODES, points(0, 4, curvature), curvature)
    asked = Embeddings(np.repeat("", 5), points(1, 5, curvature), curvature)
    weights = torch.tensor([SHARES["title"], SHARES["entry"], SHARES["sentence"]], dtype=torch.float64)
    direction = 2 * weights / (2 * weights).norm()
    middle = lorentz.exp0(2 * direction[None], curvature=curvature).numpy()
    expected = -query_distances(asked.points, middle, curvature, "lorentz")[:, 0]
    found = CentroidScorer().fit(replace(places, columns=kinds), codes).scores(asked)
    assert found[:, 0] == pytest.approx(expected)
    assert found[:, 1:] == pytest.approx(EmbeddingScorer().fit(codes, codes).scores(asked)[:, 1:])
    alike = CentroidScorer().fit(places, codes).scores(asked)
    assert alike[:, 0] != pytest.approx(expected)
