"""The mixture by hand, and a fit that takes what the queries show."""

import numpy as np
import pytest

from naics_pipeline.scorers.mixture import Mixture, softmax


def test_by_hand() -> None:
    code, entry = np.array([[0.0, np.log(3)]]), np.array([[np.log(4), 0.0]])
    found = Mixture(0.25, 1.0, 0.5).probabilities(code, entry)
    # softmax of 0, -log 3; of -2 log 4, 0.
    assert found == pytest.approx(np.array([[0.25 * 3 / 4 + 0.75 / 17, 0.25 / 4 + 0.75 * 16 / 17]]))


def test_a_code_at_an_infinite_distance_has_no_probability() -> None:
    assert softmax(np.array([[1.0, np.inf, 1.0]]), 0.3).tolist() == [[0.5, 0, 0.5]]


@pytest.mark.parametrize(("swap", "weight"), [(False, 1.0), (True, 0.0)])
def test_a_read_out_that_says_nothing_gets_no_weight_where_the_other_is_right(swap: bool, weight: float) -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 20, 200)
    knows, guesses = rng.uniform(1, 2, (2, 200, 20))
    # The right code is the nearest by a hair, so that any share of a guess can only lose it.
    knows[np.arange(200), right] = knows.min(axis=1) - 1e-3
    both = (guesses, knows) if swap else (knows, guesses)
    fitted = Mixture.fit(*both, right)
    assert fitted.weight == pytest.approx(weight)
    best = fitted.probabilities(*both).argmax(axis=1)
    assert (best == right).all()


def test_two_read_outs_with_different_strengths_beat_either() -> None:
    rng = np.random.default_rng(1)
    right = rng.integers(0, 20, 400)
    code, entry = rng.uniform(1, 2, (2, 400, 20))
    for distances, known in ((code, slice(0, 200)), (entry, slice(200, 400))):
        distances[np.arange(400)[known], right[known]] = 0.4
    fitted = Mixture.fit(code, entry, right)
    assert (fitted.probabilities(code, entry).argmax(axis=1) == right).mean() > 0.9
    assert 0 < fitted.weight < 1


def test_a_read_out_that_cannot_tell_codes_apart_does_not_win_by_its_ties() -> None:
    rng = np.random.default_rng(2)
    right = rng.integers(0, 20, 50)
    code = rng.uniform(1, 2, (50, 20))
    code[np.arange(50), right] = 0.5
    assert Mixture.fit(code, np.ones((50, 20)), right).weight > 0
    assert Mixture.fit(np.ones((50, 20)), code, right).weight < 1


def test_the_unit_of_distances_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    code, entry = rng.uniform(1, 2, (2, 30, 8))
    right = rng.integers(0, 8, 30)
    one, other = Mixture.fit(code, entry, right), Mixture.fit(100 * code, 100 * entry, right)
    assert other.probabilities(100 * code, 100 * entry) == pytest.approx(one.probabilities(code, entry))


def test_without_queries_there_are_defaults() -> None:
    assert Mixture.fit(np.empty((0, 3)), np.empty((0, 3)), np.empty(0, dtype=int)) == Mixture()
