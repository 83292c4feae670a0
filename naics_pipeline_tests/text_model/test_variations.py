"""Made-up texts: of one code's examples, those named, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naics_pipeline.text_model.training.variations import Variations, vary

EXAMPLES = [
    "Tomato farming, under cover",
    "Mushroom growing (except wild)",
    "Greenhouses",
    "Banks, commercial",
    "Trust companies (i.e., fiduciaries)",
    "Zebra racing",
]
CODE = np.array([3, 3, 3, 7, 7, 9])


def made(count: int, seed: int = 0) -> Variations:
    return vary(EXAMPLES, CODE, count, np.random.default_rng(seed))


def stems(text: str) -> set[str]:
    return {word.strip("(),.;:").lower()[:4] for word in text.split()}


def test_each_is_made_of_the_named_examples_of_its_code() -> None:
    variations = made(400)
    assert len(variations.texts) == len(variations.code) == 400
    for number, text in enumerate(variations.texts):
        rows = variations.row[variations.part_of == number]
        assert 1 <= len(rows) <= 4
        assert len(set(rows)) == len(rows)
        assert (CODE[rows] == variations.code[number]).all()
        # Something of each of them is in it, and no word of a code that it is not of; slips spoil a few letters.
        others = set.union(*(stems(EXAMPLES[row]) for row in np.flatnonzero(variations.code[number] != CODE)))
        assert not stems(text) & (others - {"comp"})
        assert sum(bool(stems(EXAMPLES[row]) & stems(text)) for row in rows) >= len(rows) - 1
    assert (np.diff(variations.part_of) >= 0).all()


def test_any_example_is_as_likely_as_any_other_to_be_the_first() -> None:
    variations = made(3000)
    first = variations.row[np.searchsorted(variations.part_of, np.arange(3000))]
    shares = np.bincount(first, minlength=len(EXAMPLES)) / 3000
    np.testing.assert_allclose(shares, 1 / 6, atol=0.03)


def test_the_same_seed_gives_the_same_and_another_others() -> None:
    first, again, other = made(50), made(50), made(50, seed=1)
    assert first.texts == again.texts
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("code", "row", "part_of"))
    assert first.texts != other.texts


def test_they_are_joined_turned_round_opened_lowered_and_misspelt() -> None:
    variations = made(600)
    texts = variations.texts
    assert "under cover Tomato farming" in texts
    assert any("; " in text for text in texts)
    assert any(text.startswith("We provide ") for text in texts)
    assert any(text.islower() for text in texts)
    assert any("Mushroom growing" in text and "(except wild)" not in text for text in texts)
    assert any("(except wild)" in text for text in texts)
    assert "Greenhouse" in texts
    # Of a code with one example nothing but a slip can change its two words.
    zebras = [text.lower() for text, code in zip(texts, variations.code, strict=True) if code == 9]
    slips = [text for text in zebras if "zebra racing" not in text]
    assert 0.05 < len(slips) / len(zebras) < 0.35
    assert len(set(texts)) > 300


def test_of_nothing_nothing_is_made() -> None:
    nothing = vary([], np.zeros(0, np.int64), 5, np.random.default_rng(0))
    assert nothing.texts == []
    assert len(nothing.code) == len(nothing.row) == len(nothing.part_of) == 0
    none = made(0)
    assert none.texts == []
    assert len(none.row) == 0


@pytest.mark.parametrize("seed", range(3))
@given(texts=st.lists(st.text(), min_size=1, max_size=8), codes=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_any_text_will_do(texts: list[str], codes: list[int], seed: int) -> None:
    code = np.sort(codes[: len(texts)])
    variations = vary(texts, code, 20, np.random.default_rng(seed))
    assert len(variations.texts) == 20
    assert all(isinstance(text, str) for text in variations.texts)
    assert sorted(set(variations.part_of.tolist())) == list(range(20))
    assert (code[variations.row] == variations.code[variations.part_of]).all()
