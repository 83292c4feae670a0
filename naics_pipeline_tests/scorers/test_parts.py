"""Where a text is split, where it is not, and what its parts add."""

import numpy as np
import pytest

from naics_pipeline.scorers.parts import SURE, part_weights, split_parts, with_parts


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


def test_the_mean_of_the_parts_is_mixed_in_and_a_text_without_parts_keeps_its_own() -> None:
    whole = np.array([[0.75, 0.25], [0.9, 0.1]])
    parts = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = with_parts(whole, parts, np.array([0, 0, 0]), np.array([1.0, 2.0, 1.0]), share=0.6)
    assert found == pytest.approx(np.array([[0.7 * 0.75 + 0.3 / 2, 0.7 * 0.25 + 0.3 / 2], [0.9, 0.1]]))
    assert with_parts(whole, parts[:0], np.empty(0, dtype=int), np.empty(0)) == pytest.approx(whole)


def test_parts_say_nothing_against_a_whole_that_is_sure() -> None:
    whole, parts = np.array([[SURE, 1 - SURE], [0.6, 0.4]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    found = with_parts(whole, parts, np.array([0, 1]), np.ones(2))
    assert found[0] == pytest.approx(whole[0])
    assert found[1, 1] > 0.5


def test_what_comes_first_and_says_more_counts_more() -> None:
    parts = ["lead paint inspection", "consulting", "training of staff in the use of paint"]
    assert part_weights(parts, np.array([1, 2, 3])).tolist() == pytest.approx([3, 1 / 2, 4 / 3])
