"""Several seeds as one table, and which of them are done."""

from pathlib import Path

import pytest

from naics_pipeline.evaluation.runs.scores import RunRecord
from naics_pipeline.evaluation.runs.seeds import over_seeds, was_made_with

BOTH = {"text": Path("text.parquet"), "refined": Path("refined.parquet")}


def run(value: float | None, **settings: object) -> RunRecord:
    record = {"metrics": {"text": {"a": value, "b": 1.0}}, "measured": {}, "evaluated": {"settings": settings}}
    return RunRecord("r", BOTH, {"text": record, "refined": {"metrics": {}, "measured": {}, "evaluated": {}}})


def test_mean_spread_and_interval_are_those_of_students_t() -> None:
    rows = {row["metric"]: row for row in over_seeds({3: run(0.4), 1: run(0.5), 2: run(0.6)}).iter_rows(named=True)}
    a = rows["a"]
    assert (a["n"], a["mean"], a["sd"]) == (3, pytest.approx(0.5), pytest.approx(0.1))
    assert (a["low"], a["high"]) == (pytest.approx(0.5 - 4.30265 * 0.1 / 3**0.5), pytest.approx(0.7484, abs=1e-4))
    assert (a["seed_1"], a["seed_3"]) == (0.5, 0.4)
    assert rows["b"]["sd"] == 0


def test_what_is_not_known_is_left_out_and_one_seed_has_no_spread() -> None:
    row = over_seeds({1: run(None), 2: run(0.5)}).row(0, named=True)
    assert (row["n"], row["mean"], row["sd"], row["low"]) == (1, 0.5, None, None)


def test_a_run_counts_as_done_with_its_own_settings_alone() -> None:
    done = run(0.5, seed=1, cutoffs=[5, 10])
    assert was_made_with(done, {"seed": 1, "cutoffs": (5, 10), "dagster_url": "x"})
    assert not was_made_with(done, {"seed": 2, "cutoffs": (5, 10)})
    half = RunRecord("r", {"text": Path("text.parquet")}, done.records)
    assert not was_made_with(half, {"seed": 1, "cutoffs": (5, 10)})
