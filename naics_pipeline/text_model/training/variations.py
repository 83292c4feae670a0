"""Short texts made from a code's examples, nearer to how people describe a business than the index is.

The index says "Tomato farming, under cover"; people write "under cover tomato farming", "We grow tomatoes; greenhouse
vegetables", in lower case and with slips. Each variation is made of examples of one code, so that its code is known.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SEPARATORS = ("; ", ", ", " and ", ". ")
_OPENINGS = (
    "We provide ",
    "Company specializing in ",
    "Provides ",
    "A firm offering ",
    "Services include ",
    "Our business: ",
)
_ASIDE = re.compile(r"\s*\((?:except|i\.e\.|e\.g\.)[^)]*\)")
_MOST_JOINED = 4
_PLURAL = re.compile(r"(?<=[a-z]{3})s\b(?<!ss)")


@dataclass(frozen=True)
class Variations:
    """V made-up texts.

    Attributes:
        texts: V strings.
        code: (V,) int64, index of the code each speaks of.
        row, part_of: (R,) int64, the examples that went in, and the text that each went into.
    """

    texts: list[str]
    code: np.ndarray
    row: np.ndarray
    part_of: np.ndarray


def vary(examples: Sequence[str], code: np.ndarray, count: int, generator: np.random.Generator) -> Variations:
    """`count` texts, each of one to four examples of one code; the first of them any example, equally likely.

    Args:
        examples: E texts, those of a code one after another.
        code: (E,) index of the code of each.
    """
    if not len(examples):
        return Variations([], *(np.zeros(0, np.int64) for _ in range(3)))
    first = generator.integers(len(examples), size=count)
    begin, end = np.searchsorted(code, code[first], "left"), np.searchsorted(code, code[first], "right")
    joined = generator.integers(1, _MOST_JOINED + 1, size=count)
    chosen = begin[:, None] + generator.integers(0, 2**31, (count, _MOST_JOINED)) % (end - begin)[:, None]
    chosen[:, 0] = first
    texts, rows, parts = [], [], []
    for number in range(count):
        own = list(dict.fromkeys(chosen[number, : joined[number]].tolist()))
        texts.append(_write([examples[row] for row in own], generator))
        rows += own
        parts += [number] * len(own)
    return Variations(texts, code[first], np.array(rows, np.int64), np.array(parts, np.int64))


def _write(phrases: Sequence[str], generator: np.random.Generator) -> str:
    chance = generator.random(5)
    phrases = [_turned(phrase, generator) for phrase in phrases]
    text = _SEPARATORS[generator.integers(len(_SEPARATORS))].join(phrases)
    if chance[0] < 0.5:
        text = _OPENINGS[generator.integers(len(_OPENINGS))] + text
    if chance[1] < 0.5:
        text = text.lower()
    if chance[2] < 0.15:
        text = _PLURAL.sub("", text)
    if chance[3] < 0.2:
        text = _misspelt(text, generator)
    return text


def _turned(phrase: str, generator: np.random.Generator) -> str:
    """Without its aside, half the time; and "Farming, tomato" as "tomato Farming", or its head alone."""
    chance = generator.random(3)
    if chance[0] < 0.5:
        phrase = _ASIDE.sub("", phrase) or phrase
    head, comma, tail = phrase.partition(", ")
    if comma and chance[1] < 0.7:
        phrase = f"{tail} {head}" if chance[2] < 0.8 else head
    return phrase.strip()


def _misspelt(text: str, generator: np.random.Generator) -> str:
    """One letter dropped, or two neighbours exchanged."""
    if len(text) < 8:
        return text
    at = int(generator.integers(1, len(text) - 2))
    swapped = generator.random() < 0.5
    return text[:at] + (text[at + 1] + text[at] + text[at + 2 :] if swapped else text[at + 1 :])
