"""Each check passes on the sample and fails on the fault it is there for."""

from itertools import product

import dagster as dg
import numpy as np
import polars as pl
import pytest

from naics_pipeline import checks
from naics_pipeline.taxonomy import tree
from naics_pipeline_tests import runs


@pytest.fixture(scope="module")
def sample_distances(sample_descriptions) -> pl.DataFrame:
    return tree.distances(sample_descriptions)


@pytest.fixture
def few(sample_descriptions) -> pl.DataFrame:
    """Distances of twenty codes of two sectors, every code with its parent."""
    codes = sample_descriptions["code"]
    sectors = codes.filter(codes.str.len_chars() == 2)[:2].to_list()
    wanted = [code for sector in sectors for code in codes.filter(codes.str.slice(0, 2) == sector)[:10]]
    return tree.distances(sample_descriptions.filter(pl.col("code").is_in(wanted)))


def test_a_full_vintage_is_asked_for_where_it_was_promised(sample_descriptions):
    assert checks.complete_vintage(sample_descriptions, "sample", 2022).passed
    promised = checks.complete_vintage(sample_descriptions, "census", 2022)
    assert (promised.passed, promised.severity) == (False, dg.AssetCheckSeverity.ERROR)
    own = checks.complete_vintage(sample_descriptions, "/some/directory", 2022)
    assert (own.passed, own.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_the_real_workbooks_are_a_full_vintage(real_descriptions):
    assert checks.complete_vintage(real_descriptions, "census", 2022).passed


def test_orphans_and_empty_texts_are_found(sample_descriptions):
    assert checks.every_code_is_described(sample_descriptions).passed
    blank = sample_descriptions.with_columns(title=pl.lit("  "))
    assert not checks.every_code_is_described(blank).passed
    assert not checks.every_code_is_described(sample_descriptions.filter(pl.col("level") != 4)).passed


def test_a_held_out_entry_among_the_examples_is_found(sample_descriptions, sample_entries):
    assert checks.held_out_examples(sample_descriptions, sample_entries).is_empty()
    code, entry = sample_entries.filter(split="held_out").select("code", "entry").row(0)
    leaky = sample_descriptions.with_columns(
        examples=pl.when(code=code).then(pl.lit(f"Something; {entry.upper()}")).otherwise("examples")
    )
    assert checks.held_out_examples(leaky, sample_entries)["code"].to_list() == [code]


def test_a_pair_that_is_missing_double_or_not_a_number_is_found(few):
    assert checks.each_pair_once(few)
    assert not checks.each_pair_once(few.slice(1))
    assert not checks.each_pair_once(pl.concat([few, few.head(1)]))
    assert not checks.each_pair_once(few.with_columns(distance=pl.lit(float("nan"))))


def test_the_four_point_condition_tells_a_tree_from_a_ring(sample_distances):
    matrix = checks.distance_matrix(sample_distances, "tree_distance")
    assert checks.four_point_violations(matrix, 10_000) == 0
    steps = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    assert checks.four_point_violations(np.minimum(steps, 8 - steps), 10_000) > 0


def test_the_triplet_formula_counts_what_enumeration_counts(few):
    matrix = checks.distance_matrix(few, "distance")
    n = len(matrix)
    enumerated = sum(
        matrix[a, p] < matrix[a, negative]
        for a, p, negative in product(range(n), repeat=3)
        if a != p and matrix[a, p] < tree.UNRELATED_DISTANCE
    )
    assert checks.triplet_count(few) == enumerated > 0


def test_a_pair_called_unrelated_within_its_sector_is_found(sample_descriptions):
    relations = tree.relations(sample_descriptions)
    assert checks.misjudged_strangers(relations) == 0
    all_strangers = relations.with_columns(relation_id=pl.lit(tree.UNRELATED, pl.UInt8))
    assert checks.misjudged_strangers(all_strangers) == relations.filter(pl.col("relation_id") != 99).height


def test_a_failed_check_stops_what_is_downstream(tmp_path, monkeypatch):
    from naics_pipeline.taxonomy import text

    real = text.descriptions
    monkeypatch.setattr(text, "descriptions", lambda *given: real(*given).with_columns(title=pl.lit("")))
    result = runs.materialize('+key:"distances"', tmp_path)
    assert not result.success
    assert (tmp_path / "descriptions.parquet").exists()
    assert not (tmp_path / "distances.parquet").exists()
