"""The token cache: complete, ragged, free of held-out entries, and never used when stale or damaged."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer

from naics_pipeline.settings import Tokens
from naics_pipeline.taxonomy.text import TRAIN, normalise
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, TokenCache, build_token_cache, load_token_cache

LIMITS = Tokens(short=16, description=24, excluded=24)
LIMIT = {"title": 16, "description": 24, "excluded": 24}


def test_ids_are_those_of_the_tokenizer_truncated_and_absent_texts_are_empty(
    sample_descriptions: pl.DataFrame, tiny_base: Path, tmp_path: Path
) -> None:
    cache = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for name, limit in LIMIT.items():
        texts, ragged = sample_descriptions[name].to_list(), cache.channels[name]
        assert cache.token_counts()[name] == len(ragged.values)
        for row in (0, 17, len(texts) - 1):
            expected = [] if texts[row] is None else tokenizer(texts[row])["input_ids"]
            found = ragged.values[ragged.offsets[row] : ragged.offsets[row + 1]].tolist()
            assert found[:-1] == expected[: limit - 1][: len(found) - 1]
            assert len(found) == min(len(expected), limit)
        assert ((ragged.lengths > 0) == sample_descriptions[name].is_not_null().to_numpy()).all()
    assert (cache.channels["excluded"].lengths == 0).any()


def test_every_example_is_a_row_of_its_own(sample_descriptions: pl.DataFrame, tiny_base: Path, tmp_path: Path) -> None:
    cache = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    counts = sample_descriptions["examples"].list.len().fill_null(0).to_numpy()
    assert np.bincount(cache.example_code, minlength=len(counts)).tolist() == counts.tolist()
    assert len(cache.examples) == counts.sum()
    assert cache.examples.lengths.min() > 2
    stored = pl.read_parquet(tmp_path / "cache" / "tokens.parquet")["examples"]
    assert stored.dtype == pl.List(pl.List(pl.Int32))
    longest = int(counts.argmax())
    assert [len(row) for row in stored[longest]] == cache.examples.lengths[cache.example_code == longest].tolist()


def same(left: TokenCache, right: TokenCache) -> bool:
    pairs = [(left.channels[name], right.channels[name]) for name in LIMIT] + [(left.examples, right.examples)]
    equal = all(np.array_equal(a.values, b.values) and np.array_equal(a.offsets, b.offsets) for a, b in pairs)
    return equal and np.array_equal(left.example_code, right.example_code)


def test_a_cache_is_read_back_as_it_was_written(sample_descriptions, tiny_base, tmp_path, caplog) -> None:
    written = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        read = load_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    assert not caplog.records
    assert same(read, written)
    assert set(read.token_counts()) == set(CHANNELS)


def test_a_code_with_many_examples_one_or_none_keeps_just_these(tiny_base: Path, tmp_path: Path, caplog) -> None:
    examples = [[f"example {number}" for number in range(300)], [], None, ["alone"]]
    frame = pl.DataFrame(
        {
            "code": ["11", "21", "22", "23"],
            "title": ["a", "b", "c", "d"],
            "description": ["e", "f", "g", "h"],
            "examples": pl.Series(examples, dtype=pl.List(pl.String)),
            "excluded": [None, "i", None, None],
        }
    )
    written = build_token_cache(frame, LIMITS, tiny_base, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        read = load_token_cache(frame, LIMITS, tiny_base, tmp_path / "cache")
    assert not caplog.records
    assert same(read, written)
    assert np.bincount(read.example_code, minlength=4).tolist() == [300, 0, 0, 1]
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert read.examples.taken(np.array([299])).values.tolist() == tokenizer("example 299")["input_ids"]
    assert read.examples.taken(np.array([300])).values.tolist() == tokenizer("alone")["input_ids"]
    nothing = frame.with_columns(
        examples=pl.lit(None, dtype=pl.List(pl.String)), excluded=pl.lit(None, dtype=pl.String)
    )
    written = build_token_cache(nothing, LIMITS, tiny_base, tmp_path / "cache")
    assert same(load_token_cache(nothing, LIMITS, tiny_base, tmp_path / "cache"), written)
    assert len(written.examples) == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / "tokens.parquet").write_bytes((d / "tokens.parquet").read_bytes()[:-100]), "damaged"),
        (lambda d: (d / "tokens.parquet").unlink(), "cannot be read"),
        (lambda d: (d / "manifest.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_cache_is_rebuilt(sample_descriptions, tiny_base, tmp_path, caplog, damage, reason) -> None:
    written = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    damage(tmp_path / "cache")
    read = load_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    assert reason in caplog.text
    assert np.array_equal(read.channels["title"].values, written.channels["title"].values)
    caplog.clear()
    load_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    assert not caplog.records


def test_other_texts_or_limits_make_it_stale(sample_descriptions, tiny_base, tmp_path, caplog) -> None:
    build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    changed = sample_descriptions.with_columns(title=pl.col("title") + " anew")
    load_token_cache(changed, LIMITS, tiny_base, tmp_path / "cache")
    assert "have changed" in caplog.text
    caplog.clear()
    shorter = load_token_cache(changed, LIMITS.model_copy(update={"short": 8}), tiny_base, tmp_path / "cache")
    assert "have changed" in caplog.text
    assert shorter.channels["title"].lengths.max() <= 8


def test_no_unseen_entry_is_in_the_cache(sample_descriptions, sample_entries, tmp_path) -> None:
    base = locate("all-MiniLM-L6-v2")
    cache = build_token_cache(sample_descriptions, Tokens(), base, tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [cache.examples.taken(np.array([row])).values for row in range(len(cache.examples))]
    items = {normalise(words) for words in tokenizer.batch_decode(rows, skip_special_tokens=True)}
    seen = pl.col("split") == TRAIN
    unseen = {normalise(entry) for entry in sample_entries.filter(~seen)["entry"]}
    trained = {normalise(entry) for entry in sample_entries.filter(seen)["entry"]}
    assert not items & unseen
    # The comparison would find one: it finds those that belong there.
    assert len(items & trained) > 0.8 * len(trained - unseen)


def test_rows_are_joined_and_taken() -> None:
    ragged = Ragged.joined([Ragged.from_lists([[1, 2, 3], []]), Ragged.from_lists([[4], [5, 6]])])
    assert ragged.lengths.tolist() == [3, 0, 1, 2]
    taken = ragged.taken(np.array([3, 1, 0]))
    assert taken.values.tolist() == [5, 6, 1, 2, 3]
    assert taken.lengths.tolist() == [2, 0, 3]


def test_rows_of_hidden_states_are_taken_whole() -> None:
    states = Ragged(np.arange(12.0, dtype=np.float32).reshape(6, 2), np.array([0, 2, 2, 6]))
    taken = states.taken(np.array([2, 0, 1]))
    assert taken.values[:, 0].tolist() == [4, 6, 8, 10, 0, 2]
    assert taken.lengths.tolist() == [4, 2, 0]
    again = Ragged.joined([taken, states])
    assert again.lengths.tolist() == [4, 2, 0, 2, 0, 4]
    assert again.taken(np.array([3, 4, 5])).values.tolist() == states.values.tolist()
    assert len(states.taken(np.zeros(0, np.int64))) == 0


def test_padding_goes_to_the_longest_chosen_row() -> None:
    ragged = Ragged.from_lists([[1, 2, 3], [], [4]])
    values, mask = ragged.padded(np.array([2, 0]))
    assert values.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]
