"""Calibration that keeps every order, and its measures against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from naics_pipeline.scorers.calibration import (
    Calibration,
    answered_at,
    calibration_error,
    calibration_metrics,
    risk_coverage,
)


@given(
    arrays(np.float64, (3, 6), elements=st.floats(0.01, 1)),
    st.floats(0.1, 3),
    st.floats(-3, 3),
)
def test_a_calibrated_row_sums_to_one_and_keeps_the_order_of_its_codes(
    weights: np.ndarray, slope: float, shift: float
) -> None:
    before = weights / weights.sum(axis=1, keepdims=True)
    after = Calibration(slope, shift)(before)
    assert after.sum(axis=1) == pytest.approx(np.ones(3))
    more = before[:, :, None] > before[:, None, :]
    assert (after[:, :, None] >= after[:, None, :] - 1e-9)[more].all()


def test_answers_that_are_too_sure_are_brought_to_their_share() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 0.999, 4000)
    odds = np.log(sure / (1 - sure))
    right = rng.uniform(size=4000) < 1 / (1 + np.exp(-0.6 * odds))
    fitted = Calibration.fit(sure, right)
    assert fitted.slope == pytest.approx(0.6, abs=0.1)
    after = fitted(np.column_stack([sure, 1 - sure])).max(axis=1)
    assert calibration_error(after, right) < 0.03 < calibration_error(sure, right)


def test_the_first_answer_gets_what_the_line_says_and_the_others_share_the_rest() -> None:
    after = Calibration(1.0, np.log(2.0))(np.array([[0.5, 0.3, 0.2]]))
    assert after == pytest.approx(np.array([[2 / 3, 0.2, 0.4 / 3]]))


def test_measures_by_hand() -> None:
    confidence, right = np.array([0.9, 0.9, 0.6, 0.3]), np.array([True, False, True, False])
    assert calibration_error(confidence, right, 10) == pytest.approx((0.8 + 0.4 + 0.3) / 4)
    thresholds, coverage, precision = risk_coverage(confidence, right)
    assert thresholds.tolist() == [0.9, 0.6, 0.3]
    assert coverage.tolist() == [0.5, 0.75, 1]
    assert precision == pytest.approx([1 / 2, 2 / 3, 1 / 2])
    assert answered_at(confidence, right, 0.6) == 0.75
    assert answered_at(confidence, right, 0.95) == 0
    assert calibration_metrics(confidence, right)["brier"] == pytest.approx((0.01 + 0.81 + 0.16 + 0.09) / 4)
    assert all(np.isnan(value) for value in calibration_metrics(np.empty(0), np.empty(0, dtype=bool)).values())
