"""A text as a list of what it names: an index has a line for each, a business writes "roofing, siding, gutters"."""

import re
from collections.abc import Sequence

import numpy as np

SHARE = 0.7
"""Of the parts' mean in the score of a text that says nothing as a whole. It, the root in `with_parts` and the parts'
weights were chosen among a few on real descriptions and validation entries; they are constants, as no labelled text
takes part in fitting anything."""

SURE = 0.8
"""From here on a whole is sure: its parts change nothing, and a batch does not read them."""

_SEPARATOR = re.compile(r"[()]|[,;\n]|\.(?=\s|$)|\band(?:/or)?\b", re.IGNORECASE)
_MARGIN = " \t\r.,;:-"
_SHORTEST = 3
_MOST_WORDS = 4


def split_parts(text: str) -> list[str]:
    """The parts of a text at commas, semicolons, full stops, line ends and "and", but not inside parentheses.

    A part has at least three characters. A text that comes to one part only has none beside itself: an empty list.
    """
    nested = text.count("(") == text.count(")")
    parts, depth, start = [], 0, 0
    for found in _SEPARATOR.finditer(text):
        if found[0] in "()":
            depth += nested * (1 if found[0] == "(" else -1)
        elif depth <= 0:
            parts.append(text[start : found.start()])
            start = found.end()
    parts = [part.strip(_MARGIN) for part in (*parts, text[start:])]
    parts = [part for part in parts if len(part) >= _SHORTEST]
    return parts if len(parts) > 1 else []


def part_weights(parts: Sequence[str], number: np.ndarray) -> np.ndarray:
    """(P,) what each part counts in its text: as many as it has words, up to four, divided by its place in the text.

    "Consulting" alone says less than "lead paint inspection", and what a business names first it does most.

    Args:
        number: (P,) which part of its text each is, from 1.
    """
    words = np.array([len(part.split()) for part in parts])
    return np.minimum(words, _MOST_WORDS) / number


def with_parts(
    whole: np.ndarray, parts: np.ndarray, text: np.ndarray, weight: np.ndarray, share: float = SHARE
) -> np.ndarray:
    """Probabilities of texts (T, L), mixed with the mean of those of their parts; a text without parts keeps its own.

    The surer the whole is of its first answer, c, the less the parts count: share · √(1 - c), and nothing from `SURE`
    on. "Farming, tomato" has a comma as well, and is no list.

    Args:
        whole: (T, L) of each text as it is.
        parts: (P, L) of each part alone.
        text: (P,) position of the text that each part is of.
        weight: (P,) > 0, of each part in the mean.
        share: of the parts where the whole is sure of nothing.
    """
    sure = whole.max(axis=1, keepdims=True)
    share_of = np.where(sure < SURE, share * np.sqrt(1 - sure), 0)
    total = np.bincount(text, weights=weight, minlength=len(whole))[:, None]
    sums = np.zeros_like(whole)
    np.add.at(sums, text, weight[:, None] * parts)
    return np.where(total > 0, (1 - share_of) * whole + share_of * sums / np.where(total > 0, total, 1), whole)
