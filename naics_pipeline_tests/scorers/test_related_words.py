"""Words that are like a code's own speak for it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import ModelError
from naics_pipeline.scorers.related_words import ALIKE, RelatedWordsScorer
from naics_pipeline.scorers.term_weights import TermWeights
from naics_pipeline.scorers.words import WordTable, words_in
from naics_pipeline.text_model.embeddings import Embeddings

CODES = np.array(["111110", "111998", "221110", "722511"])
OWN = ["soybeans and beans", "wheat for the market", "electricity for the market", "restaurants; the market"]


@pytest.fixture(scope="module")
def table() -> WordTable:
    return WordTable.of("all-MiniLM-L6-v2")


def said(texts: list[str], codes: np.ndarray | None = None) -> Embeddings:
    owner = np.repeat("", len(texts)) if codes is None else codes
    return Embeddings(owner, np.zeros((len(texts), 0)), columns=pl.DataFrame({"text": texts}, {"text": pl.String}))


def fitted(table: WordTable) -> RelatedWordsScorer:
    return RelatedWordsScorer(table).fit(said(OWN, CODES), said(OWN, CODES))


def test_a_word_that_no_code_has_finds_the_code_of_a_word_like_it(table: WordTable) -> None:
    scores = fitted(table).scores(said(["bean", "barley", "electric power", "diner or cafe"]))
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert (scores.max(axis=1) > 0).all()


def test_scores_against_a_loop_over_words(table: WordTable) -> None:
    stop = {"and", "for", "the", "or"}
    own = [[word for word in words_in(text) if word not in stop] for text in OWN]

    def share(word: str, code: int) -> float:
        cosine = (table.vectors([word]) @ table.vectors(own[code]).T).max()
        return float(cosine) ** 2 if cosine > ALIKE else 0.0

    def idf(word: str) -> float:
        return float(max(0.0, np.log(len(own) / (sum(share(word, code) for code in range(len(own))) + 0.5))))

    asked = ["wheat market", "Beans, BEANS or diner: soybeans", "power for the market"]
    found = fitted(table).scores(said(asked))
    for row, text in enumerate(asked):
        words = [word for word in words_in(text) if word not in stop]
        expected = [sum(idf(word) * share(word, code) for word in words) for code in range(len(own))]
        assert found[row] == pytest.approx(np.array(expected) / np.sqrt(sum(map(idf, words))), rel=1e-4)


def test_what_stands_everywhere_or_nowhere_has_no_say(table: WordTable) -> None:
    scorer = fitted(table)
    alone = scorer.scores(said(["soybeans"]))
    assert scorer.scores(said(["the Soybeans, xqzzyk; 12 for and"])) == pytest.approx(alone)
    assert not scorer.scores(said(["", "the and", "xqzzyk 7"])).any()
    assert scorer.scores(said([])).shape == (0, 4)
    # Three of four codes have it.
    assert (scorer.scores(said(["market"])).max() < 0.5 * alone.max()).all()


def test_what_was_learned_is_all_that_a_search_needs(table: WordTable) -> None:
    scorer, asked = fitted(table), said(["diner", "wheat and soybean", ""])
    kept = TermWeights.restored(scorer.learned.arrays, scorer.learned.terms)
    assert (RelatedWordsScorer.restored(kept).scores(asked) == scorer.scores(asked)).all()


def test_texts_of_other_codes_and_codes_without_texts_do_no_harm(table: WordTable) -> None:
    texts = said([*OWN[:3], "diners"], np.append(CODES[:3], "999999"))
    scores = RelatedWordsScorer(table).fit(texts, said(OWN, CODES)).scores(said(["diner", "soybeans"]))
    assert not scores[0].any()
    assert scores[1].argmax() == 0
    nothing = RelatedWordsScorer(table).fit(said([]), said(OWN, CODES))
    assert not nothing.scores(said(["soybeans"])).any()


def test_points_alone_are_refused(table: WordTable) -> None:
    bare = replace(said(OWN, CODES), columns=pl.DataFrame())
    with pytest.raises(ModelError, match="no column 'text'"):
        RelatedWordsScorer(table).fit(bare, bare)


def test_the_table_knows_words_that_are_one_piece_and_reads_any_other(table: WordTable) -> None:
    assert {"restaurant", "wholesale", "farm"} <= set(table.words)
    assert not {"##ing", "[PAD]", "pad]", "1990"} & set(table.words)
    vectors = table.vectors(["restaurant", "restaurants", "microbrewery", "bakery", "bread"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.7 > likeness[3, 4] > ALIKE > abs(likeness[2, 4])
