"""A text as a list of what it names: an index has a line for each, a business writes "roofing, siding, gutters"."""

import re

import numpy as np

SHARE = 0.4
"""Of the parts' mean in a text's score. From 0.3 to 0.5 all serve alike on real descriptions, on which it was chosen
among four values; it is a constant and not fitted, as no labelled text takes part in fitting anything."""

_SEPARATOR = re.compile(r"[()]|[,;\n]|\.(?=\s|$)|\band(?:/or)?\b", re.IGNORECASE)
_MARGIN = " \t\r.,;:-"
_SHORTEST = 3


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


def with_parts(whole: np.ndarray, parts: np.ndarray, text: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Probabilities of texts (T, L), mixed with the mean of those of their parts; a text without parts keeps its own.

    Args:
        whole: (T, L) of each text as it is.
        parts: (P, L) of each part alone.
        text: (P,) position of the text that each part is of.
        share: of the parts.
    """
    count = np.bincount(text, minlength=len(whole))[:, None]
    sums = np.zeros_like(whole)
    np.add.at(sums, text, parts)
    return np.where(count > 0, (1 - share) * whole + share * sums / np.maximum(count, 1), whole)
