"""The paired bootstrap finds what is there and nothing else; the gate holds its bounds."""

import numpy as np
import polars as pl
import pytest

from naics_pipeline.evaluation.compare import (
    Thresholds,
    calibration_intervals,
    compare_scores,
    failures,
    gate,
    intervals,
    mean_interval,
    paired_bootstrap,
    paired_bootstraps,
)
from naics_pipeline.scorers.calibration import calibration_metrics


def test_interval_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=2000)
    second = first + rng.normal(0.1, 0.5, size=2000)
    difference = second - first
    found = paired_bootstrap(first, second, seed=1)
    margin = 1.96 * difference.std() / np.sqrt(2000)
    assert found.difference == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((difference.mean() - margin, difference.mean() + margin), abs=2e-3)
    assert found.p_value < 0.001
    assert found.verdict == "better"
    assert paired_bootstrap(second, first, seed=1).verdict == "worse"


def test_interval_misses_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [paired_bootstrap(np.zeros(200), rng.normal(size=200), seed=i, resamples=500) for i in range(300)]
    missed = np.mean([comparison.verdict != "no difference" for comparison in found])
    assert 0.02 < missed < 0.09


def test_scores_resampled_together_have_the_intervals_they_have_alone() -> None:
    rng = np.random.default_rng(0)
    changes = np.column_stack([rng.normal(0.1, 0.5, 700), rng.integers(-1, 2, 700), np.zeros(700)])
    together = paired_bootstraps(changes, seed=3)
    for found, values in zip(together, changes.T, strict=True):
        alone = paired_bootstrap(np.zeros(700), values, seed=4)
        assert (found.difference, found.n, found.verdict) == (alone.difference, alone.n, alone.verdict)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=4e-3)
    # The same codes are drawn for all: what two scores share, their resamples share.
    twice = paired_bootstraps(np.column_stack([changes[:, 0], 2 * changes[:, 0]]), seed=3)
    assert twice[1].low == pytest.approx(2 * twice[0].low)


def test_scores_of_other_codes_are_compared_over_their_own() -> None:
    first = {"all": np.zeros(4), "some": np.array([0, np.nan, 0, 0]), "none": np.full(4, np.nan)}
    second = {name: values + 1 for name, values in first.items()}
    found = compare_scores(first, second, seed=0)
    assert {name: row.n for name, row in found.items()} == {"all": 4, "some": 3, "none": 0}
    assert found["some"].difference == 1


def test_equal_variants_do_not_differ() -> None:
    scores = np.random.default_rng(0).uniform(size=50)
    found = paired_bootstrap(scores, scores, seed=0)
    assert (found.difference, found.p_value, found.verdict) == (0, 1, "no difference")


def test_codes_that_one_variant_does_not_score_are_left_out() -> None:
    found = paired_bootstrap(np.array([0, 0, np.nan]), np.array([1, np.nan, 1]), seed=0)
    assert (found.n, found.difference) == (1, 1)
    assert np.isnan(paired_bootstrap(np.array([np.nan]), np.array([1.0]), seed=0).difference)


def test_same_seed_same_answer_for_every_common_score() -> None:
    rng = np.random.default_rng(0)
    first, second = ({"a": rng.uniform(size=90), name: rng.uniform(size=90)} for name in ("b", "c"))
    found = compare_scores(first, second, seed=7)
    assert list(found) == ["a"]
    assert found == compare_scores(first, second, seed=7)
    assert found != compare_scores(first, second, seed=8)


@pytest.mark.parametrize(
    ("before", "after", "failed"),
    [
        ((0.90, 0.80, 0.80), (0.88, 0.79, 0.85), []),
        ((0.90, 0.80, 0.80), (0.87, 0.79, 0.85), ["cophenetic_correlation"]),
        ((0.90, 0.80, 0.80), (0.90, 0.78, 0.85), ["ndcg@10"]),
        ((0.90, 0.80, 0.80), (0.90, 0.80, 0.84), ["parent_retrieval@1"]),
        ((0.90, 0.80, 0.96), (0.90, 0.80, 0.95), []),
        ((0.90, 0.80, 0.96), (0.90, 0.80, 0.94), ["parent_retrieval@1"]),
        ((0.90, 0.80, float("nan")), (0.90, 0.80, float("nan")), []),
    ],
)
def test_gate(before: tuple[float, ...], after: tuple[float, ...], failed: list[str]) -> None:
    names = ("cophenetic_correlation", "ndcg@10", "parent_retrieval@1")
    rules = gate(dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True)))
    assert [rule.metric for rule in rules if not rule.passed] == failed
    assert [words.split()[0] for words in failures(rules).split("; ") if words] == failed


def test_thresholds_are_those_given() -> None:
    same = {"cophenetic_correlation": 0.9, "ndcg@10": 0.8, "parent_retrieval@1": 0.9}
    assert failures(gate(same, same, Thresholds(parent=0))) == ""
    assert failures(gate(same, same, Thresholds(cophenetic=0.01, parent=0))).startswith("cophenetic_correlation 0.9000")
    assert failures(gate(same, same, Thresholds(parent_is_high=0.9))) == ""


def test_intervals_hold_the_mean_and_narrow_with_more_codes() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    frame = pl.concat(
        pl.DataFrame({"metric": name, "key": [str(i) for i in range(n)], "value": values[:n]})
        for name, n in (("few", 40), ("many", 4000))
    )
    found = intervals(frame)
    assert found["many"][0] < values.mean() < found["many"][1]
    assert found["many"][1] - found["many"][0] == pytest.approx(2 * 1.96 * values.std() / 4000**0.5, rel=0.1)
    assert found["few"][1] - found["few"][0] > 5 * (found["many"][1] - found["many"][0])


def test_the_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    hits = np.arange(1000) < 800
    spread = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert mean_interval(hits, resamples=20_000) == pytest.approx((0.8 - spread, 0.8 + spread), abs=2e-3)
    assert np.isnan(mean_interval(np.empty(0))).all()


def test_calibration_intervals_are_those_of_measuring_each_resample() -> None:
    """By hand: every resample is drawn and measured alone."""
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.3, 0.6, 0.9, 0.97], 300)
    right = rng.random(300) < confidence * 0.95
    found = calibration_intervals(confidence, right, resamples=4000)
    value = calibration_metrics(confidence, right)
    drawn = [rng.integers(300, size=300) for _ in range(4000)]
    measured = [calibration_metrics(confidence[rows], right[rows]) for rows in drawn]
    for name, bounds in found.items():
        alone = np.array([row[name] for row in measured])
        shift = value[name] - alone.mean() if name == "calibration_error" else 0
        expected = np.maximum(np.quantile(alone, [0.025, 0.975]) + shift, 0)
        assert bounds == pytest.approx(tuple(expected), abs=0.01)
        assert bounds[0] <= value[name] <= bounds[1]
    assert found.keys() == value.keys()
    assert calibration_intervals(np.empty(0), np.empty(0)) == {}
