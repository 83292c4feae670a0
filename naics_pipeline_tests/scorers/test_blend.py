"""The blend by hand, and a fit that takes what the texts show."""

import numpy as np
import pytest

from naics_pipeline.scorers.blend import Blend
from naics_pipeline.scorers.ensemble import CalibratedBlend, blends_of


def guesses(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape)


def nll(probabilities: np.ndarray, right: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(right)), right]).mean())


def test_weighted_scores_are_logits() -> None:
    found = Blend({"a": 2.0, "b": 1.0}).probabilities({"a": np.log([[2.0, 1.0]]), "b": np.log([[1.0, 3.0]])})
    assert found == pytest.approx(np.array([[4 / 7, 3 / 7]]))


def test_a_scorer_that_says_nothing_gets_next_to_no_weight() -> None:
    right = np.random.default_rng(0).integers(0, 20, 300)
    knows, chance = guesses(1, 300, 20), guesses(2, 300, 20)
    knows[np.arange(300), right] += 0.7
    weights = Blend.fit({"knows": knows, "chance": chance}, right).weights
    assert weights["chance"] < 0.1 * weights["knows"]


def test_two_scorers_that_each_know_a_half_beat_either() -> None:
    right = np.random.default_rng(1).integers(0, 20, 400)
    one, other = guesses(3, 400, 20), guesses(4, 400, 20)
    one[np.arange(200), right[:200]] = 2.0
    other[np.arange(200, 400), right[200:]] = 2.0
    scores = {"one": one, "other": other}
    assert (Blend.fit(scores, right).probabilities(scores).argmax(axis=1) == right).mean() > 0.9
    assert (one.argmax(axis=1) == right).mean() < 0.7


def test_the_fit_has_the_greatest_likelihood_and_no_unit() -> None:
    right = np.random.default_rng(2).integers(0, 8, 500)
    scores = {"a": guesses(5, 500, 8), "b": guesses(6, 500, 8)}
    for values in scores.values():
        values[np.arange(500), right] += 0.3
    blend = Blend.fit(scores, right)
    best = nll(blend.probabilities(scores), right)
    for name in scores:
        for factor in (0.8, 1.25):
            moved = Blend(blend.weights | {name: factor * blend.weights[name]})
            assert nll(moved.probabilities(scores), right) > best
    larger = {"a": 100 * scores["a"] - 7, "b": scores["b"]}
    assert Blend.fit(larger, right).probabilities(larger) == pytest.approx(blend.probabilities(scores), abs=1e-3)


def test_without_texts_all_count_one_and_nothing_is_calibrated() -> None:
    nothing = {"a": np.empty((0, 3)), "b": np.empty((0, 3))}
    fitted = CalibratedBlend.fit(nothing, np.empty(0, dtype=int))
    assert fitted.blend.weights == {"a": 1.0, "b": 1.0}
    assert (fitted.calibration.slope, fitted.calibration.shift) == (1.0, 0.0)


def test_there_is_a_blend_of_all_and_one_without_each() -> None:
    space = ("code", "nearest_entry", "centroid")
    found = blends_of((*space, "lexical", "linear"))
    assert found["mixed"] == space
    assert found["blend"] == (*space, "lexical", "linear")
    assert found["blend_without_code"] == ("nearest_entry", "centroid", "lexical", "linear")
    assert len(found) == 7
    assert blends_of(space) == {"mixed": space}


def test_a_scorer_without_a_weight_need_not_score() -> None:
    scores = {"first": np.array([[1.0, 0.0]]), "second": np.array([[0.0, 5.0]])}
    blend = Blend({"first": 2.0, "second": 0.0})
    assert blend.heard == ["first"]
    assert blend.probabilities({"first": scores["first"]}) == pytest.approx(blend.probabilities(scores))
    nobody = Blend(dict.fromkeys(scores, 0.0))
    assert nobody.probabilities(scores) == pytest.approx(np.full((1, 2), 0.5))
