"""Held-out texts in a space: what each may be, how often that is right, and what is taken for what."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from naics_pipeline.evaluation.retrieval import Queries
from naics_pipeline.scorers.calibration import BINS
from naics_pipeline.scorers.ensemble import CalibratedBlend, scorers_of_space
from naics_pipeline.scorers.levels import Levels
from naics_pipeline.scorers.scorer import positions
from naics_pipeline.taxonomy.tree import LEVELS
from naics_pipeline.text_model.embeddings import Embeddings


def entries_among(places: Embeddings) -> pl.DataFrame:
    """Code and text of the index entries among the places: none of them held out."""
    rows = places.columns.select("kind", "text").with_columns(code=pl.Series(places.codes.tolist(), dtype=pl.String))
    return rows.filter(kind="entry").select("code", "text")


@dataclass(frozen=True)
class SearchedTexts:
    """Texts with their right codes and the probability of each candidate.

    Attributes:
        texts: Q texts.
        candidates: (L,) six-digit codes.
        right: (Q,) position of each text's code among the candidates.
        probabilities: (Q, L), rows sum to 1.
    """

    texts: list[str]
    candidates: np.ndarray
    right: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, space: Embeddings, queries: Embeddings, places: Embeddings) -> "SearchedTexts":
        """The held-out queries among the six-digit codes, by the scorers of the space, fitted on validation.

        Args:
            queries: index entries as points of the space, with the columns text and split.
            places: texts below their codes, likewise.
        Raises:
            ModelError: queries or places are points of another space.
        """
        asked = Queries.of(queries.codes, queries.columns)
        codes = space.at(space.level == max(LEVELS))
        scores = {name: scorer.fit(places, codes).scores(queries) for name, scorer in scorers_of_space().items()}
        right, known, rows = positions(codes.codes, asked.codes), asked.validation, asked.held_out
        blend = CalibratedBlend.fit({name: values[known] for name, values in scores.items()}, right[known])
        chances = blend.probabilities({name: values[rows] for name, values in scores.items()})
        return cls(queries.columns["text"].filter(rows).to_list(), codes.codes, right[rows], chances)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def found(self) -> np.ndarray:
        """(Q,) position of the first answer."""
        return self.probabilities.argmax(axis=1)

    @property
    def found_probability(self) -> np.ndarray:
        """(Q,)"""
        return self.probabilities.max(axis=1)

    @property
    def right_probability(self) -> np.ndarray:
        """(Q,)"""
        return np.take_along_axis(self.probabilities, self.right[:, None], axis=1)[:, 0]

    @property
    def rank(self) -> np.ndarray:
        """(Q,) of the right code, 1 first; ties count against it."""
        return np.count_nonzero(self.probabilities >= self.right_probability[:, None], axis=1)

    def error_by_candidate(self) -> np.ndarray:
        """(L,) share of each code's texts whose first answer is another code; NaN for a code without texts."""
        count = np.bincount(self.right, minlength=len(self.candidates)).astype(np.float64)
        wrong = np.bincount(self.right[self.found != self.right], minlength=len(self.candidates))
        return np.divide(wrong, count, out=np.full(len(count), np.nan), where=count > 0)

    def likeliest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, k) positions of the likeliest candidates, in no order, and their shares of the probability of all k."""
        k = min(k, len(self.candidates))
        at = np.argpartition(-self.probabilities, k - 1, axis=1)[:, :k]
        shares = np.take_along_axis(self.probabilities, at, axis=1)
        return at, shares / shares.sum(axis=1, keepdims=True)

    def confusion(self) -> tuple[list[str], np.ndarray]:
        """Sectors, and (S, S) how many texts of a row's sector have their first answer in a column's."""
        levels = Levels.of(self.candidates)
        sectors, of_candidate = levels.codes[LEVELS[0]], levels.above[LEVELS[0]]
        counts = np.zeros((len(sectors), len(sectors)), dtype=np.int64)
        np.add.at(counts, (of_candidate[self.right], of_candidate[self.found]), 1)
        return sectors.tolist(), counts

    def answers(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) probability of the likeliest ancestor at a level, and 1 where it is right, else 0."""
        levels = Levels.of(self.candidates)
        summed = levels.probabilities(self.probabilities, level)
        hit = (summed.argmax(axis=1) == levels.above[level][self.right]).astype(np.float64)
        return summed.max(axis=1).clip(0, 1), hit

    def reliability(self, level: int) -> "Reliability":
        """How often the likeliest ancestor at a level is right, by the probability it is given (Guo et al., 2017)."""
        return Reliability.of(*self.answers(level))


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over the probability of the first answer.

    Attributes:
        count: (BINS,) texts.
        probability, right: (BINS,) mean probability, and share that is right; NaN in an empty bin.
        error: expected calibration error, Σ count |right - probability| / Q.
    """

    count: np.ndarray
    probability: np.ndarray
    right: np.ndarray
    error: float

    @classmethod
    def of(cls, chance: np.ndarray, hit: np.ndarray) -> "Reliability":
        """From (Q,) probabilities in [0, 1], and 1 where the answer is right, else 0."""
        place = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
        count = np.bincount(place, minlength=BINS)
        known = np.where(count > 0, count, np.nan)
        probability, right = (np.bincount(place, weights=values, minlength=BINS) / known for values in (chance, hit))
        error = float(np.nansum(count * np.abs(right - probability)) / max(len(chance), 1))
        return cls(count, probability, right, error)
