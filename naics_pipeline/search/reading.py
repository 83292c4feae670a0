"""What of a text is read: its beginning where it is very long, its parts, and how many of its words are known."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from naics_pipeline.scorers.parts import part_weights, split_parts, with_parts

MOST_CHARACTERS, MOST_PARTS = 2000, 20
_WORD = re.compile(r"[^\W\d_]{3,}")
_BEGINNING = 5
_ENOUGH = 0.5
"""Share of known words from which a text counts as one of this language: every description by a business owner that
was looked at has it (the lowest 0.5, one in a hundred below 0.71), French and German sentences have 0.2 to 0.4."""


def readable(text: str) -> str:
    """The beginning of a text, without control characters and with single blanks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:MOST_CHARACTERS]).split())


def parts_of(text: str) -> list[str]:
    """The first parts of a text that lists several things."""
    return split_parts(text[:MOST_CHARACTERS])[:MOST_PARTS]


def beginnings(text: str) -> list[str]:
    """The first letters of each word of three or more: they know a word by its stem."""
    return [word[:_BEGINNING].lower() for word in _WORD.findall(text)]


def familiarity(text: str, known: frozenset[str]) -> float:
    """From 0, no word of a text is known, to 1, at least half of them are."""
    words = beginnings(text)
    return min(1.0, sum(word in known for word in words) / (_ENOUGH * len(words))) if words else 0.0


def with_text_parts(
    texts: Sequence[str], probabilities: Callable[[Sequence[str]], np.ndarray], known: frozenset[str], count: int
) -> np.ndarray:
    """(n, L) probabilities of texts, by themselves and by their parts, drawn towards chance where words are unknown.

    Args:
        probabilities: of texts as they stand, to (m, L).
        known: beginnings of known words.
        count: L.
    """
    if not len(texts):
        return np.empty((0, count))
    short = [readable(text) for text in texts]
    by_text = [parts_of(text[:MOST_CHARACTERS]) for text in texts]
    parts = [part for found in by_text for part in found]
    owner = np.repeat(np.arange(len(texts)), [len(found) for found in by_text])
    number = np.array([place for found in by_text for place in range(1, len(found) + 1)])
    chances = probabilities([*short, *parts])
    whole = chances[: len(texts)]
    if parts:
        whole = with_parts(whole, chances[len(texts) :], owner, part_weights(parts, number))
    sure = np.array([familiarity(text, known) for text in short])[:, None]
    return sure * whole + (1 - sure) / count
