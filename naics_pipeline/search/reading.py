"""What of a text is read: its beginning where it is very long, its parts, and how many of its words are known."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from naics_pipeline.scorers.blend import Probable
from naics_pipeline.scorers.parts import part_weights, parts_count, split_parts, with_parts

MOST_CHARACTERS, MOST_PARTS = 2000, 20
_WORD = re.compile(r"[^\W\d_]{3,}")
_BEGINNING = 5
_STAYS = 0.25
"""Of the probabilities of a text none of whose words is known. "Sushi" and "daycare" are in no text of the
classification, and the base knows them: the order of codes is worth keeping, and little certainty."""
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


@dataclass(frozen=True)
class Reading:
    """n texts as they are read.

    Attributes:
        texts: (n,) readable.
        parts: (P,) of those that list several things, `owner` (P,), the text that each is of, and `number` (P,), which
            of its parts it is, from 1.
        familiarity: (n,) from 0 to 1.
    """

    texts: list[str]
    parts: list[str]
    owner: np.ndarray
    number: np.ndarray
    familiarity: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], known: frozenset[str]) -> "Reading":
        """Of texts of any length and kind.

        Args:
            known: beginnings of known words.
        """
        by_text = [parts_of(text) for text in texts]
        numbers = [range(1, len(found) + 1) for found in by_text]
        short = [readable(text) for text in texts]
        return cls(
            texts=short,
            parts=[readable(part) for found in by_text for part in found],
            owner=np.repeat(np.arange(len(texts)), [len(found) for found in by_text]),
            number=np.array([number for found in numbers for number in found], dtype=np.int64),
            familiarity=np.array([familiarity(text, known) for text in short]),
        )

    def where_parts_count(self, whole: Probable) -> "Reading":
        """Without the parts of texts that, as they stand, are known well enough: they would change nothing."""
        count = (parts_count(whole) > 0)[self.owner]
        parts = [part for part, is_read in zip(self.parts, count, strict=True) if is_read]
        return replace(self, parts=parts, owner=self.owner[count], number=self.number[count])

    def together(self, whole: Probable, parts: np.ndarray) -> np.ndarray:
        """(n, L) of the texts, by themselves and by their parts, drawn towards chance where words are unknown.

        Args:
            whole: of the texts as they stand.
            parts: (P, L) of the parts.
        """
        chances = with_parts(whole, parts, self.owner, part_weights(self.parts, self.number))
        is_text = np.array([any(map(str.isalpha, text)) for text in self.texts], dtype=bool)
        sure = np.where(is_text, _STAYS + (1 - _STAYS) * self.familiarity, 0)[:, None]
        return np.asarray(sure * chances + (1 - sure) / chances.shape[1])
