"""Baselines on texts where the right answer is plain, and on the bundled sample."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from naics_pipeline.evaluation.baselines import baselines
from naics_pipeline.evaluation.frozen import FrozenVectors
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.base import encode_texts
from naics_pipeline.text_model.embeddings import Embeddings

ROWS = {"tfidf", "linear_svm", "frozen_text", "frozen_centroid", "frozen_nearest_entry", "frozen_mixed"}


def metrics_of(*given: Any, **named: Any) -> dict[str, dict[str, float]]:
    return {name: found.metrics for name, found in baselines(*given, **named).items()}


def frozen(base: Path, cache: Path | None = None) -> FrozenVectors:
    return FrozenVectors(str(base), None, "cpu", cache)


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
        schema_overrides={"examples": pl.List(pl.String)},
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
    found = metrics_of(descriptions, entries, frozen(tiny_base), tree, seed=0)
    assert found.keys() == ROWS
    assert found["tfidf"]["query_top1"] == 1
    assert found["linear_svm"]["query_top1"] == 1
    assert found["tfidf"]["parent_retrieval@1"] <= 1
    assert "cophenetic_correlation" in found["frozen_text"]
    assert "cophenetic_correlation" not in found["linear_svm"]


def test_every_example_is_among_the_words_of_a_code(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    queries = entries.filter(split="held_out").with_columns(entry="code")
    tree = Tree.from_codes(descriptions["code"].to_list())
    told = descriptions.with_columns(
        examples=pl.when(level=6).then(pl.concat_list(pl.lit("something else"), "code", pl.lit("last")))
    )
    assert metrics_of(descriptions, queries, frozen(tiny_base), tree, seed=0)["tfidf"]["query_top1"] < 1
    assert metrics_of(told, queries, frozen(tiny_base), tree, seed=0)["tfidf"]["query_top1"] == 1


def test_without_entries_there_is_nothing_to_learn_from_or_to_ask(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    found = metrics_of(descriptions, entries.clear(), frozen(tiny_base), tree, seed=0)
    assert "linear_svm" not in found
    assert np.isnan(found["tfidf"]["query_top1"])
    assert found["tfidf"]["cophenetic_correlation"] == pytest.approx(
        metrics_of(descriptions, entries, frozen(tiny_base), tree, seed=0)["tfidf"]["cophenetic_correlation"]
    )


def test_on_the_sample_words_beat_chance_by_far_and_the_seed_fixes_the_result(
    sample_descriptions: pl.DataFrame, sample_entries: pl.DataFrame, sample_tree: Tree, tiny_base: Path
) -> None:
    first, second = (
        metrics_of(sample_descriptions, sample_entries, frozen(tiny_base), sample_tree, seed=0) for _ in range(2)
    )
    assert first == second
    assert first["tfidf"]["query_top1"] > 0.3
    assert first["linear_svm"]["query_top1"] > 0.3
    assert first["tfidf"]["query_top1"] <= first["tfidf"]["query_top5"] <= first["tfidf"]["query_top10"]


def test_a_centroid_is_the_mean_of_title_and_train_entries(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    held_out = entries.filter(split="held_out")
    vectors = {
        text: vector / np.linalg.norm(vector)
        for texts in [[*entries["entry"], *descriptions["title"]]]
        for text, vector in zip(texts, encode_texts(str(tiny_base), texts), strict=True)
    }
    right = []
    for entry, code in held_out.select("entry", "code").iter_rows():
        nearness = {}
        for candidate, title in descriptions.filter(level=6).select("code", "title").iter_rows():
            own = [title, *entries.filter(code=candidate, split="train")["entry"]]
            mean = np.sum([vectors[text] for text in own], axis=0)
            nearness[candidate] = float(vectors[entry] @ mean / np.linalg.norm(mean))
        right.append(max(nearness, key=lambda candidate: nearness[candidate]) == code)
    found = metrics_of(descriptions, entries, frozen(tiny_base), tree, seed=0)
    assert found["frozen_centroid"]["query_top1"] == pytest.approx(np.mean(right))


def test_the_frozen_base_knows_the_texts_that_a_space_knows(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    candidates = descriptions.filter(level=6)
    # What is asked is a sentence below its code, and nothing like the code's title and entries.
    sentences = [f"merchants number {number} of something else" for number in range(len(candidates))]
    asked = pl.DataFrame({"code": candidates["code"], "entry": sentences, "split": "held_out"})
    places = Embeddings(
        candidates["code"].to_numpy(),
        np.zeros((len(candidates), 3)),
        metadata={"space": "another"},
        columns=pl.DataFrame({"kind": "sentence", "text": sentences}),
    )
    entries = pl.concat([entries.filter(split="train"), asked])
    bare = metrics_of(descriptions, entries, frozen(tiny_base), tree, seed=0)
    told = metrics_of(descriptions, entries, frozen(tiny_base), tree, seed=0, places=places)
    for row in ("frozen_centroid", "frozen_nearest_entry", "frozen_mixed"):
        assert told[row]["query_top1"] == 1
    assert bare["frozen_nearest_entry"]["query_top1"] < 1


def test_validation_entries_are_known_when_held_out_ones_are_asked(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    held_out = entries.filter(split="held_out")
    # The same words, said of the code after it.
    others = held_out.with_columns(pl.col("code").shift(1).fill_null(held_out["code"][-1]), split=pl.lit("validation"))
    found = metrics_of(descriptions, pl.concat([entries, others]), frozen(tiny_base), tree, seed=0)
    assert found["frozen_nearest_entry"]["query_top1"] == 0
    assert found["frozen_nearest_entry"]["validation/query_top1"] < 1


def test_labelled_texts_and_unrepeated_entries_are_in_every_row(tiny_base: Path, tmp_path: Path) -> None:
    descriptions, entries = small_corpus()
    tree = Tree.from_codes(descriptions["code"].to_list())
    labelled = pl.DataFrame(
        {
            "text_id": [0, 0, 0, 1],
            "part": [0, 1, 2, 0],
            "codes": [["111110", "221120"]] * 3 + [["999990"]],
            "text": ["sunflower farming, soybean farming", "sunflower farming", "soybean farming", "voltage"],
        }
    )
    marked = entries.with_columns(repeated=pl.col("code") == "111110")
    first, second = (
        metrics_of(
            descriptions,
            marked,
            frozen(tiny_base, tmp_path),
            tree,
            seed=0,
            labelled=labelled,
        )
        for _ in range(2)
    )
    assert str(first) == str(second)
    assert first.keys() == ROWS
    for row in first.values():
        assert {"unrepeated/query_top1", "validation/query_top1", "labelled/top1", "labelled/top10"} <= row.keys()
        assert (row["labelled/texts"], row["labelled/left_out"]) == (1, 1)
    assert {name for name, row in first.items() if "labelled/parts/top1" in row} == {"frozen_mixed"}
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["codes", "entries", "labelled", "places"]


def test_every_metric_that_is_a_mean_has_its_scores(tiny_base: Path) -> None:
    descriptions, entries = small_corpus()
    found = baselines(descriptions, entries, frozen(tiny_base), Tree.from_codes(descriptions["code"].to_list()), seed=0)
    means = dict(found["tfidf"].scores.group_by("metric").agg(pl.col("value").mean()).iter_rows())
    assert {"query_top1", "query_mrr", "ndcg@10", "cophenetic_correlation"} <= means.keys()
    assert means == pytest.approx({name: found["tfidf"].metrics[name] for name in means})
    assert "ndcg@10" not in found["linear_svm"].scores["metric"]
