"""The token cache: complete, ragged, free of held-out entries, and never used when stale or damaged."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer

from naics_pipeline.settings import Tokens
from naics_pipeline.taxonomy.text import HELD_OUT, normalise
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, build_token_cache, load_token_cache

LIMITS = Tokens(title=16, description=24, examples=2000, excluded=24)


def test_ids_are_those_of_the_tokenizer_truncated_and_absent_texts_are_empty(
    sample_descriptions: pl.DataFrame, tiny_base: Path, tmp_path: Path
) -> None:
    cache, counts = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for name in CHANNELS:
        texts, ragged = sample_descriptions[name].to_list(), cache.channels[name]
        assert counts[name] == len(ragged.values)
        for row in (0, 17, len(texts) - 1):
            expected = [] if texts[row] is None else tokenizer(texts[row])["input_ids"]
            limit = getattr(LIMITS, name)
            found = ragged.values[ragged.offsets[row] : ragged.offsets[row + 1]].tolist()
            assert found[:-1] == expected[: limit - 1][: len(found) - 1]
            assert len(found) == min(len(expected), limit)
    assert (cache.present == sample_descriptions.select(pl.col(CHANNELS).is_not_null()).to_numpy()).all()
    assert not cache.present.all()


def test_a_cache_is_read_back_as_it_was_written(sample_descriptions, tiny_base, tmp_path, caplog) -> None:
    written, _ = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        read = load_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
    assert not caplog.records
    for name in CHANNELS:
        assert np.array_equal(read.channels[name].values, written.channels[name].values)
        assert np.array_equal(read.channels[name].offsets, written.channels[name].offsets)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / "tokens.parquet").write_bytes((d / "tokens.parquet").read_bytes()[:-100]), "damaged"),
        (lambda d: (d / "tokens.parquet").unlink(), "cannot be read"),
        (lambda d: (d / "manifest.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_cache_is_rebuilt(sample_descriptions, tiny_base, tmp_path, caplog, damage, reason) -> None:
    written, _ = build_token_cache(sample_descriptions, LIMITS, tiny_base, tmp_path / "cache")
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
    shorter = load_token_cache(changed, LIMITS.model_copy(update={"title": 8}), tiny_base, tmp_path / "cache")
    assert "have changed" in caplog.text
    assert shorter.channels["title"].lengths.max() <= 8


def test_no_held_out_entry_is_in_the_cache(sample_descriptions, sample_entries, tmp_path) -> None:
    base = locate("all-MiniLM-L6-v2")
    cache, _ = build_token_cache(sample_descriptions, LIMITS, base, tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(base)
    examples = cache.channels["examples"]
    items = {
        normalise(item)
        for row in range(len(examples))
        for item in tokenizer.decode(
            examples.values[examples.offsets[row] : examples.offsets[row + 1]], skip_special_tokens=True
        ).split(";")
    }
    held_out = {normalise(entry) for entry in sample_entries.filter(split=HELD_OUT)["entry"]}
    trained = {normalise(entry) for entry in sample_entries.filter(pl.col("split") != HELD_OUT)["entry"]}
    assert not items & held_out
    # The comparison would find one: it finds those that belong there.
    assert len(items & trained) > 0.8 * len(trained - held_out)


def test_padding_goes_to_the_longest_chosen_row() -> None:
    ragged = Ragged.from_lists([[1, 2, 3], [], [4]])
    values, mask = ragged.padded(np.array([2, 0]))
    assert values.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]
