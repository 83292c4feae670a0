"""Baselines on texts where the right answer is plain, and on the bundled sample."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.evaluation.baselines import baselines
from naics_pipeline.taxonomy.tree import Tree

ROWS = {"tfidf", "linear_svm", "frozen_text", "frozen_nearest_entry"}


def small_corpus() -> tuple[pl.DataFrame, pl.DataFrame]:
    crops = {"111110": "soybean", "111120": "sunflower", "221110": "electricity", "221120": "voltage"}
    codes = sorted({code[:digits] for code in crops for digits in (2, 3, 4, 5, 6)})
    descriptions = pl.DataFrame(
        {
            "code": codes,
            "level": pl.Series([len(code) for code in codes], dtype=pl.UInt8),
            "title": [crops.get(code, "General") for code in codes],
            "description": ["This industry comprises establishments." for _ in codes],
            "examples": [None for _ in codes],
        },
        schema_overrides={"examples": pl.String},
    )
    entries = pl.DataFrame(
        [(code, f"{word} {more}", split) for code, word in crops.items() for more, split in
         (("farming", "train"), ("growing", "train"), ("merchants", "held_out"))],
        schema=["code", "entry", "split"], orient="row",
    )  # fmt: skip
    return descriptions, entries


def test_methods_that_see_words_find_codes_that_words_tell_apart(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    found = baselines(descriptions, entries, str(tiny_base), tree, seed=0)
    assert found.keys() == ROWS
    assert found["tfidf"]["query_top1"] == 1
    assert found["linear_svm"]["query_top1"] == 1
    assert found["tfidf"]["parent_retrieval@1"] <= 1
    assert "cophenetic_correlation" in found["frozen_text"]
    assert "cophenetic_correlation" not in found["linear_svm"]


def test_without_entries_there_is_nothing_to_learn_from_or_to_ask(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    found = baselines(descriptions, entries.clear(), str(tiny_base), tree, seed=0)
    assert "linear_svm" not in found
    assert np.isnan(found["tfidf"]["query_top1"])
    assert found["tfidf"]["cophenetic_correlation"] == pytest.approx(
        baselines(descriptions, entries, str(tiny_base), tree, seed=0)["tfidf"]["cophenetic_correlation"]
    )


def test_on_the_sample_words_beat_chance_by_far_and_the_seed_fixes_the_result(
    sample_descriptions: pl.DataFrame, sample_entries: pl.DataFrame, sample_tree: Tree, tiny_base: Path
) -> None:
    first, second = (
        baselines(sample_descriptions, sample_entries, str(tiny_base), sample_tree, seed=0) for _ in range(2)
    )
    assert first == second
    assert first["tfidf"]["query_top1"] > 0.3
    assert first["linear_svm"]["query_top1"] > 0.3
    assert first["tfidf"]["query_top1"] <= first["tfidf"]["query_top5"] <= first["tfidf"]["query_top10"]
