"""What a search says of a text: the likeliest codes, how sure it is at every level, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from naics_pipeline.errors import NaicsError
from naics_pipeline.search.reading import MOST_CHARACTERS
from naics_pipeline.taxonomy.tree import LEVELS

if TYPE_CHECKING:
    from naics_pipeline.search.index import Index

THRESHOLD = 0.5
"""From here on a code is likelier right than wrong, and the code above it as well: the answers form one path."""
_ENTRIES, _WORDS, _CONFUSED = 2, 3, 5


@dataclass(frozen=True)
class Named:
    """A code with its title and, where one is meant, its probability."""

    code: str
    title: str
    probability: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A six-digit code for a text.

    Attributes:
        path: the codes above it, from the sector down.
        entries: the texts of this code that are nearest to the text.
        words: those of the text that the code's texts share, the strongest first.
        confused_with: codes that Census sends some activities to that one might look for here.
    """

    code: str
    title: str
    probability: float
    path: list[Named]
    entries: list[str]
    words: list[str]
    confused_with: list[Named]


@dataclass(frozen=True)
class Activity:
    """A part of a text that speaks of a code of its own."""

    part: str
    code: str
    title: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a search says of one text.

    Attributes:
        answer: the deepest code whose probability passes the threshold; None: not even a sector does.
        levels: the likeliest code of each level, from the sector down; a level's probability is the sum over its codes.
        activities: parts that lead to different codes; none where the text is about one thing.
        notes: what to know of the text: empty, shortened, its words unknown.
    """

    text: str
    answer: Named | None
    levels: list[Named]
    candidates: list[Candidate]
    activities: list[Activity]
    notes: list[str]


def answers(index: "Index", texts: Sequence[str], k: int, threshold: float) -> list[Answer]:
    """See `Index.search`."""
    if k < 1:
        raise NaicsError(f"asked for the {k} likeliest codes: ask for at least one.")
    if not 0 < threshold <= 1:
        raise NaicsError(f"a threshold of {threshold}: give a probability above 0, at most 1.")
    if not texts:
        return []
    judged = index.judge(texts)
    reading, chances = judged.reading, judged.chances
    order = np.argsort(-chances, axis=1, kind="stable")[:, :k]
    levels = _levels(index, chances)
    found = []
    for row, text in enumerate(reading.texts):
        mine = np.flatnonzero(reading.owner == row)
        parts = [reading.parts[part] for part in mine]
        likely = [level for level in levels[row] if (level.probability or 0) >= threshold]
        found.append(
            Answer(
                text=text,
                answer=likely[-1] if likely else None,
                levels=levels[row],
                candidates=_candidates(index, judged.points[row], text, order[row], chances[row]),
                activities=_activities(index, parts, judged.of_parts[mine], threshold),
                notes=_notes(texts[row], text, reading.familiarity[row]),
            )
        )
    return found


def answer_columns(index: "Index", chances: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The answer's code, "" where there is none, and its number of digits, 0 there: (n,) and (n,) from (n, L)."""
    code, digits = np.full(len(chances), "", dtype=object), np.zeros(len(chances), dtype=np.int8)
    for level in LEVELS:
        of_level = index.levels.probabilities(chances, level)
        passes = of_level.max(axis=1) >= threshold
        code[passes] = index.levels.codes[level][of_level.argmax(axis=1)][passes]
        digits[passes] = level
    return code, digits


def _levels(index: "Index", chances: np.ndarray) -> list[list[Named]]:
    by_level = []
    for level in LEVELS:
        of_level = index.levels.probabilities(chances, level)
        best = of_level.argmax(axis=1)
        codes, values = index.levels.codes[level][best], of_level.max(axis=1)
        by_level.append(
            [Named(str(code), index.titles.get(code, ""), float(p)) for code, p in zip(codes, values, strict=True)]
        )
    return [list(row) for row in zip(*by_level, strict=True)]


def _candidates(
    index: "Index", point: np.ndarray, text: str, columns: np.ndarray, chances: np.ndarray
) -> list[Candidate]:
    places = index.places.columns["text"]
    nearest = index.nearest.nearest(point, columns, _ENTRIES)
    words = index.lexical.shared_words(text, columns)
    found = []
    for column, rows, shared in zip(columns.tolist(), nearest, words, strict=True):
        code = str(index.candidates[column])
        above = [str(index.levels.codes[level][index.levels.above[level][column]]) for level in LEVELS[:-1]]
        found.append(
            Candidate(
                code=code,
                title=index.titles.get(code, ""),
                probability=float(chances[column]),
                path=[_named(index, other) for other in above],
                entries=[str(places[row]) for row, _ in rows] if text else [],
                words=shared[:_WORDS],
                confused_with=[_named(index, other) for other in index.excluded.get(code, [])[:_CONFUSED]],
            )
        )
    return found


def _activities(index: "Index", parts: list[str], chances: np.ndarray, threshold: float) -> list[Activity]:
    """The parts that are sure of a code, for each code the surest; none where they all mean one code."""
    best: dict[str, Activity] = {}
    for part, row in zip(parts, chances, strict=True):
        code, probability = str(index.candidates[row.argmax()]), float(row.max())
        if probability >= threshold and (code not in best or probability > best[code].probability):
            best[code] = Activity(part, code, index.titles.get(code, ""), probability)
    return list(best.values()) if len(best) > 1 else []


def _notes(given: str, read: str, familiarity: float) -> list[str]:
    notes = []
    if not read:
        return ["There is no text."]
    if len(given) > MOST_CHARACTERS:
        notes.append(f"Only the first {MOST_CHARACTERS:,} of {len(given):,} characters were read.")
    if familiarity == 0:
        notes.append("No word of it is known: describe the activity in English.")
    elif familiarity < 1:
        notes.append("Most of its words are unknown, so the answer is uncertain: describe the activity in English.")
    return notes


def _named(index: "Index", code: str) -> Named:
    return Named(code, index.titles.get(code, ""))
