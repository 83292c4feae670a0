"""The blend by hand, and a fit that takes what the texts show."""

import numpy as np
import pytest

from naics_pipeline.scorers.blend import CAUTION, Blend
from naics_pipeline.scorers.ensemble import EXPECTED, CalibratedBlend, blends_of


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


def near_and_far(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """300 texts that "near" knows, with scores of up to 1, and 300, of scores below -1, that "words" alone knows."""
    right = np.random.default_rng(seed).integers(0, 12, 600)
    scores = {"near": guesses(seed + 1, 600, 12), "words": guesses(seed + 2, 600, 12)}
    scores["near"][300:] -= 2
    for name, rows in (("near", np.arange(300)), ("words", np.arange(300, 600))):
        scores[name][rows, right[rows]] += 0.6
    return scores, right


def test_weights_hang_on_how_far_a_text_lies_from_what_is_known() -> None:
    scores, right = near_and_far(7)
    asked, truth = near_and_far(17)
    blind, blend = Blend.fit(scores, right), Blend.fit(scores, right, "near")
    assert blend.far["words"] > 0 > blend.far["near"]
    found, others = (b.probabilities(asked).argmax(axis=1) == truth for b in (blend, blind))
    assert found.mean() > others.mean() + 0.05
    assert found[300:].mean() > others[300:].mean()


def test_a_far_text_is_answered_with_caution_and_a_known_one_is_not() -> None:
    blend = Blend({"near": 2.0}, {"near": 1.0}, "near", (-3.0, -1.0))
    scores = {"near": np.array([[-1.0, -2.0], [-9.0, -8.0], [-2.0, -4.0]])}
    odds = np.diff(np.log(blend.probabilities(scores)), axis=1)[:, 0]
    assert odds == pytest.approx([-2.0, 3 * (1 - CAUTION), -2 * 2.25 * (1 - CAUTION / 4)])


def test_what_is_given_is_not_fitted_and_speaks_of_far_texts_alone() -> None:
    scores, right = near_and_far(27)
    scores["title"] = guesses(1, 600, 12)
    blend = Blend.fit(scores, right, "near", {"title": 4.0, "absent": 1.0})
    assert (blend.weights["title"], blend.far["title"]) == (0, 4)
    assert "absent" not in blend.weights
    best = scores["near"].max(axis=1).argmax()
    of_best = {name: values[[best]] for name, values in scores.items()}
    assert blend.probabilities(of_best) == pytest.approx(
        blend.probabilities(of_best | {"title": np.zeros((1, 12))}), abs=1e-6
    )
    assert blend.heard == ["near", "words", "title"]
    assert Blend({"near": 0.0, "words": 1.0}, {"near": 0.0, "words": 0.0}, "near", (0.0, 1.0)).heard == [
        "near",
        "words",
    ]
    assert Blend.fit(scores, right, None, {"title": 4.0}).heard == ["near", "words"]


def test_few_texts_leave_the_expected_weights_slowly_and_many_go_where_they_lead() -> None:
    def weights(count: int, expected: dict[str, tuple[float, float]] | None) -> np.ndarray:
        right = np.random.default_rng(3).integers(0, 12, count)
        scores = {"good": guesses(4, count, 12), "chance": guesses(5, count, 12)}
        scores["good"][np.arange(count), right] += 0.5
        found = Blend.fit(scores, right, expected=expected).weights
        return np.array(
            [found[name] * (values - values.max(axis=1, keepdims=True)).std() for name, values in scores.items()]
        )

    expected = {"good": (0.5, 0.0), "chance": (1.0, 0.0)}
    assert weights(2, expected) == pytest.approx([0.5, 1.0], abs=0.2)
    assert weights(20_000, expected) == pytest.approx(weights(20_000, None), abs=0.05)
    assert weights(20_000, None) != pytest.approx([0.5, 1.0], abs=0.5)


def test_a_scorer_nobody_expected_anything_of_is_expected_to_say_nothing() -> None:
    scores, right = near_and_far(37)
    named = Blend.fit(scores, right, "near", expected={"near": (1.0, 0.0), "words": (0.0, 0.0)})
    assert Blend.fit(scores, right, "near", expected={"near": (1.0, 0.0)}) == named


def test_blends_that_hear_words_expect_something_of_their_scorers_and_those_of_the_space_do_not() -> None:
    scores, right = near_and_far(47)
    space = {"code": scores["words"][:40], "nearest_entry": scores["near"][:40]}
    every = space | {"lexical": guesses(48, 40, 12)}
    expecting = Blend.fit(every, right[:40], "nearest_entry", expected=EXPECTED)
    assert CalibratedBlend.fit(every, right[:40]).blend == expecting
    assert expecting != Blend.fit(every, right[:40], "nearest_entry")
    assert CalibratedBlend.fit(space, right[:40]).blend == Blend.fit(space, right[:40], "nearest_entry")


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
