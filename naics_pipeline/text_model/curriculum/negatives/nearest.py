"""Negatives that are nearest as things stand: in the space, or in what the experts make of them."""

import numpy as np

from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import NegativePolicy, Negatives, Pairs, hardness_of
from naics_pipeline.text_model.curriculum.state import CurriculumState


class Nearest:
    """A share of the negatives are the codes nearest to the anchor, another policy draws the rest.

    `mined` takes those whose points are nearest, `router_guided` those whose gate distributions are (Hellinger
    distance). Both look at the table of all codes as it was when the epoch began, or at the codes of the batch alone
    (of all processes).

    Args:
        rest: draws K; those that are among the nearest give way, and as many of the others stay as are needed.
    """

    def __init__(
        self, candidates: Candidates, spec: stage.Mined | stage.RouterGuided, rest: NegativePolicy, k: int
    ) -> None:
        self.candidates, self.spec, self.rest, self.k = candidates, spec, rest, k
        self.by = "points" if spec.kind == "mined" else "gates"
        self.needs = rest.needs | {self.by}

    def draw(self, pairs: Pairs, state: CurriculumState, generator: np.random.Generator) -> Negatives:
        rest = self.rest.draw(pairs, state, generator)
        count = round(state.value(self.spec.share) * self.k)
        if not count:
            return rest
        found = self._of_batch(pairs, state, count) if self.spec.pool == "batch" else self._of_all(pairs, state, count)
        # Both together in a random order, the nearest first, and none twice.
        chance = generator.random(rest.codes.shape)
        chance[(rest.codes[:, :, None] == found[:, None, :]).any(axis=2)] = np.inf
        codes = np.concatenate([found, rest.codes], axis=1)
        rank = np.concatenate([np.where(found >= 0, -1.0, np.inf), chance], axis=1)
        kept = np.argsort(rank, axis=1, kind="stable")[:, : self.k]
        codes = np.take_along_axis(codes, kept, axis=1)
        if (codes < 0).any():
            # Fewer than K in all: what the other policy repeated stands.
            codes = np.where((codes < 0).any(axis=1, keepdims=True), rest.codes, codes)
        return Negatives(codes, hardness_of(self.candidates, pairs, codes), rest.asked, rest.short)

    def _of_all(self, pairs: Pairs, state: CurriculumState, count: int) -> np.ndarray:
        """(B, count) the nearest of all codes, -1 where there are fewer."""
        found = np.full((len(pairs.anchor), count), -1)
        waiting = np.arange(len(pairs.anchor))
        for width in (64, 512, None):
            some = pairs.at(waiting)
            codes = state.nearest(self.by, some.anchor, width)
            found[waiting], full = _first(codes, self._is_negative(some, codes), count)
            waiting = waiting[~full]
            if not len(waiting):
                break
        return found

    def _of_batch(self, pairs: Pairs, state: CurriculumState, count: int) -> np.ndarray:
        """Likewise, of the codes that the pairs name."""
        codes = np.unique(np.concatenate([pairs.anchor, pairs.positive]))
        apart = state.apart(self.by, pairs.anchor, codes)
        apart[~self._is_negative(pairs, codes)] = np.inf
        width = min(count, len(codes))
        near = np.argpartition(apart, width - 1, axis=1)[:, :width]
        distance = np.take_along_axis(apart, near, axis=1)
        order = np.argsort(distance, axis=1)
        found = np.full((len(apart), count), -1)
        nearest = np.where(np.isfinite(distance), codes[near], -1)
        found[:, :width] = np.take_along_axis(nearest, order, axis=1)
        return found

    def _is_negative(self, pairs: Pairs, codes: np.ndarray) -> np.ndarray:
        return hardness_of(self.candidates, pairs, codes) > 0


def _first(codes: np.ndarray, chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, count) the first codes of each row that are chosen, -1 where there are fewer; and which rows have all."""
    number = np.cumsum(chosen, axis=1)
    found = np.full((len(codes), count), -1)
    row, column = np.nonzero(chosen & (number <= count))
    found[row, number[row, column] - 1] = codes[row, column]
    return found, number[:, -1] >= count if codes.shape[1] else np.zeros(len(codes), bool)
