"""A text as a list of what it names: an index has a line for each, a business writes "roofing, siding, gutters"."""

import re
from collections.abc import Sequence

import numpy as np

from naics_pipeline.scorers.blend import Probable

KNOWN = 0.25
"""A text no farther than this from what is known is read as a whole alone: half of the validation entries are."""

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


def parts_count(whole: Probable) -> np.ndarray:
    """(T,) from 0 to 1, how much each text is open to what its parts say: not at all where it is `KNOWN`.

    "Farming, tomato" has a comma as well, and is no list.
    """
    return np.maximum(whole.far - KNOWN, 0) / (1 - KNOWN)


def with_parts(whole: Probable, parts: np.ndarray, text: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Probabilities of texts (T, L), mixed with the mean of those of their parts; a text without parts keeps its own.

    Of a text that is far from all that is known the parts get q / (q + c), where q is how sure they are of their first
    answers on average, and c how sure the whole is; of others less.

    Args:
        whole: T texts as they are.
        parts: (P, L) of each part alone.
        text: (P,) position of the text that each part is of.
        weight: (P,) > 0, of each part in the mean.
    """
    chances = whole.chances
    mean, sure = np.zeros_like(chances), np.zeros(len(chances))
    np.add.at(mean, text, weight[:, None] * parts)
    np.add.at(sure, text, weight * parts.max(axis=1, initial=0))
    total = np.bincount(text, weights=weight, minlength=len(chances))
    share = parts_count(whole) * sure / (sure + np.where(total > 0, total, 1) * chances.max(axis=1, initial=0))
    mean /= np.where(total > 0, total, 1)[:, None]
    return (1 - share[:, None]) * chances + share[:, None] * mean
