"""Each check passes on the sample and fails on the fault it is there for."""

import time
from itertools import product

import dagster as dg
import numpy as np
import polars as pl
import pytest

from naics_pipeline import checks
from naics_pipeline.evaluation.runs.comparison import FOLLOWED
from naics_pipeline.evaluation.runs.scores import scores_frame, write_scores
from naics_pipeline.storage import Store
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


@pytest.mark.parametrize("split", ["held_out", "validation"])
@pytest.mark.parametrize("column", ["examples", "excluded"])
def test_an_unseen_entry_among_the_examples_or_excluded_activities_is_found(
    column, split, sample_descriptions, sample_entries
):
    assert checks.nothing_held_out(sample_descriptions, sample_entries).passed
    code, entry = sample_entries.filter(split=split).select("code", "entry").row(0)
    leak = {
        "examples": pl.lit(["Something", entry.upper()]),
        "excluded": pl.lit(
            f"Growing nothing--are classified elsewhere. {entry}--are classified in Industry 111110, Soy."
        ),
    }
    leaky = sample_descriptions.with_columns(pl.when(code=code).then(leak[column]).otherwise(column).alias(column))
    result = checks.nothing_held_out(leaky, sample_entries)
    assert not result.passed
    assert code in result.metadata["leaked"].value


def test_an_unseen_entry_among_the_activity_phrases_is_found(sample_entries):
    code, entry = sample_entries.filter(split="validation").select("code", "entry").row(0)
    phrases = pl.DataFrame({"phrase": ["Growing nothing", entry.upper()], "code": [code] * 2, "under": ["111120"] * 2})
    assert checks.unseen_entries(phrases, "phrase", sample_entries).rows() == [(code, entry.upper())]


def test_what_census_says_twice_passes_and_is_counted(real_descriptions, real_entries):
    started = time.perf_counter()
    result = checks.nothing_held_out(real_descriptions, real_entries)
    assert time.perf_counter() - started < 3
    assert result.passed
    counts = {name: value.value for name, value in result.metadata.items() if name.startswith("held_out")}
    assert 0 < counts.pop("held_out_inside_an_exclusion") < 150
    assert counts == {
        "held_out_equal_a_title": 38,
        "held_out_inside_a_description": 59,
        "held_out_equal_a_training_entry": 0,
    }


def test_a_pair_that_is_missing_double_or_not_a_number_is_found(few):
    codes = pl.concat([few["code_i"], few["code_j"].alias("code_i")]).unique().sort()
    assert checks.each_pair_once(few, codes)
    assert not checks.each_pair_once(few.slice(1), codes)
    assert not checks.each_pair_once(pl.concat([few, few.head(1)]), codes)
    assert not checks.each_pair_once(few.with_columns(distance=pl.lit(float("nan"))), codes)
    without_the_last_code = few.filter(pl.col("code_j") != codes[-1])
    assert not checks.each_pair_once(without_the_last_code, codes)
    assert not checks.each_pair_once(few.with_columns(code_j=few["code_j"].reverse()), codes)


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


def test_a_run_that_falls_behind_the_best_before_is_warned_of(tmp_path):
    def keep(run: str, value: float, day: int, **settings: object) -> None:
        record = {
            "metrics": {"text": {FOLLOWED: value}},
            "intervals": {"text": {FOLLOWED: [value - 0.02, value + 0.02]}},
            "measured": {"text": {"origin": {"settings": settings}}},
            "evaluated": {"run_id": run, "created": f"2026-01-0{day}"},
            "curves": {},
        }
        write_scores(tmp_path / "scores" / run / "text.parquet", run, {"text": scores_frame([], {})}, record)

    def checked() -> dg.AssetCheckResult:
        (result,) = checks.text_evaluation_checks(Store(str(tmp_path)))
        return result

    keep("first", 0.80, 1, source="sample")
    assert checked().passed
    keep("other_source", 0.99, 2, source="census")
    keep("near", 0.79, 3, source="sample")
    assert checked().passed
    assert checked().metadata["best_run"].value == "first"
    keep("worse", 0.70, 4, source="sample")
    assert (checked().passed, checked().severity) == (False, dg.AssetCheckSeverity.WARN)
