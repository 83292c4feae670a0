"""Negatives in two fixed shares, near and far."""

import numpy as np

from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.candidates import GROUP_HALF_STEPS, Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import Negatives, Pairs, of_groups
from naics_pipeline.text_model.curriculum.state import CurriculumState

_LAST_RESORT = 1e-12


class NearFar:
    """A share of the negatives from codes up to a distance of the anchor, the rest from those beyond; each as likely.

    Where one side has too few codes, the other gives the rest.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, candidates: Candidates, spec: stage.NearFar, k: int) -> None:
        self.candidates, self.k = candidates, k
        near = 2 * spec.threshold >= GROUP_HALF_STEPS
        wanted = np.arange(k)[:, None] < round(spec.near * k)
        self.weight = np.where(near == wanted, 1.0, _LAST_RESORT)

    def draw(self, pairs: Pairs, state: CurriculumState, generator: np.random.Generator) -> Negatives:
        row, farther = pairs.anchor, self.candidates.farther(pairs.anchor, pairs.positive)
        codes, groups = self.candidates.pick_groups(row, self.weight * farther[:, None], self.k, generator)
        return of_groups(codes, groups, self.candidates.half_steps[row, pairs.positive])
