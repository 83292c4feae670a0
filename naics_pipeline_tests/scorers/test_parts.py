"""Where a text is split, where it is not, and what its parts add."""

import numpy as np
import pytest

from naics_pipeline.scorers.blend import Probable
from naics_pipeline.scorers.parts import KNOWN, part_weights, parts_count, split_parts, with_parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Roofing, siding and gutters", ["Roofing", "siding", "gutters"]),
        ("Plumbing; heating\nCooling. Sales", ["Plumbing", "heating", "Cooling", "Sales"]),
        ("Grain (wheat, rye and oats), seed", ["Grain (wheat, rye and oats)", "seed"]),
        ("Tools (hand (saws, files), power), paint", ["Tools (hand (saws, files), power)", "paint"]),
        ("An open (parenthesis, never closed", ["An open (parenthesis", "never closed"]),
        ("Sand and/or gravel", ["Sand", "gravel"]),
        ("Version 2.5 software, e.g.games", ["Version 2.5 software", "e.g.games"]),
        ("Brandy, AND candy", ["Brandy", "candy"]),
        ("IT, software, hardware", ["software", "hardware"]),
        ("Landscaping services", []),
        ("Landscaping services.", []),
        ("Cars, or, so, to", []),
        ("", []),
    ],
)
def test_parts(text: str, parts: list[str]) -> None:
    assert split_parts(text) == parts


def far(chances: list[list[float]], far: float = 1.0) -> Probable:
    return Probable(np.array(chances), np.full(len(chances), far))


def test_the_mean_of_the_parts_is_mixed_in_and_a_text_without_parts_keeps_its_own() -> None:
    whole = far([[0.75, 0.25], [0.9, 0.1]])
    parts = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = with_parts(whole, parts, np.array([0, 0, 0]), np.array([1.0, 2.0, 1.0]))
    share = 1 / (1 + 0.75)
    expected = (1 - share) * 0.75 + share / 2
    assert found == pytest.approx(np.array([[expected, 1 - expected], [0.9, 0.1]]))
    assert with_parts(whole, parts[:0], np.empty(0, dtype=int), np.empty(0)) == pytest.approx(whole.chances)


def test_parts_that_are_unsure_say_little() -> None:
    parts = np.array([[0.9, 0.05, 0.05], [0.3, 0.3, 0.4]])
    (found,) = with_parts(far([[0.4, 0.3, 0.3]]), parts, np.zeros(2, dtype=int), np.array([1.0, 3.0]))
    share = (0.9 + 3 * 0.4) / (0.9 + 3 * 0.4 + 4 * 0.4)
    assert found[0] == pytest.approx((1 - share) * 0.4 + share * (0.9 + 3 * 0.3) / 4)
    assert found.sum() == pytest.approx(1)


def test_parts_say_nothing_of_a_text_that_is_known_and_more_the_farther_it_lies() -> None:
    parts, text = np.array([[0.0, 1.0]]), np.zeros(1, dtype=int)
    second = [with_parts(far([[0.8, 0.2]], f), parts, text, np.ones(1))[0, 1] for f in (0, KNOWN, 0.5, 1)]
    assert second[:2] == pytest.approx([0.2, 0.2])
    assert second[1] < second[2] < second[3] == pytest.approx(0.2 + 0.8 / 1.8)
    assert (parts_count(far([[1.0, 0.0]], KNOWN)), parts_count(far([[1.0, 0.0]], 1))) == (0, 1)


def test_what_comes_first_and_says_more_counts_more() -> None:
    parts = ["lead paint inspection", "consulting", "training of staff in the use of paint"]
    assert part_weights(parts, np.array([1, 2, 3])).tolist() == pytest.approx([3, 1 / 2, 4 / 3])
