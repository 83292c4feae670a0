"""Negatives by their distance in the tree: the nearer, the likelier."""

import numpy as np

from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.candidates import (
    GROUP_EXCLUDED,
    GROUP_SIBLING,
    Candidates,
    group_tree_distance,
)
from naics_pipeline.text_model.curriculum.negatives.policy import Negatives, Pairs, of_groups
from naics_pipeline.text_model.curriculum.state import CurriculumState

_LAST_RESORT = 1e-12


class TreeDistance:
    """P(n) ∝ tree_distance(a, n)^-α over the codes farther than the positive.

    Siblings, where they are masked, come only where there is nothing else; codes that exclude the anchor count
    `exclusion_boost` times.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, candidates: Candidates, spec: stage.TreeDistance, k: int) -> None:
        self.candidates, self.spec, self.k = candidates, spec, k

    def draw(self, pairs: Pairs, state: CurriculumState, generator: np.random.Generator) -> Negatives:
        row, farther = pairs.anchor, self.candidates.farther(pairs.anchor, pairs.positive)
        steps = group_tree_distance(self.candidates.depth[row]).clip(1).astype(np.float64)
        weight = steps ** -state.value(self.spec.alpha) * np.where(GROUP_EXCLUDED, self.spec.exclusion_boost, 1.0)
        if self.spec.mask_siblings:
            weight = np.where(GROUP_SIBLING, _LAST_RESORT, weight)
        codes, groups = self.candidates.pick_groups(row, weight * farther, self.k, generator)
        return of_groups(codes, groups, self.candidates.half_steps[row, pairs.positive])
