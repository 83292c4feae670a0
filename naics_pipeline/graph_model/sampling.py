"""Which triplets the graph model learns from: negatives by the text model's policies, one positive for each anchor."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from naics_pipeline.settings import Graph, quotas
from naics_pipeline.taxonomy.tree import UNRELATED_DISTANCE, Tree
from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.buckets import Buckets
from naics_pipeline.text_model.curriculum.negatives.candidates import GROUP_HALF_STEPS, Candidates
from naics_pipeline.text_model.curriculum.negatives.nearest import Nearest
from naics_pipeline.text_model.curriculum.negatives.policy import NegativePolicy, Pairs
from naics_pipeline.text_model.curriculum.state import CurriculumState

_BLOCK_ENTRIES = 2**20
_RELATED = round(2 * UNRELATED_DISTANCE) > GROUP_HALF_STEPS
# Distances from the anchor to some codes, (P, n) for (P,) anchors.
Distances = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Triplets:
    """One anchor and positive a row, with K negatives.

    Attributes:
        anchor, positive: (P,) indices.
        negatives: (P, K) indices.
    """

    anchor: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray


class TripletSampler:
    """Draws, for each code that has a relative and a stranger, one positive and K negatives.

    A positive is any code of the anchor's sector, all distances being equally likely; negatives fill
    `bucket_percentages` by hardness (`Buckets`), a share of them the nearest in the embedding (`Nearest`). Memory is
    that of a block of anchors by n.

    Args:
        kept: (n,) indices of the codes to draw from; triplets count among them.
        excluded: (N, N) bool, pairs of the tree's codes that exclude one another.
        held_out: (N, N) bool, symmetric: pairs that are never anchor and positive, nor anchor and negative.
    """

    def __init__(
        self,
        tree: Tree,
        kept: np.ndarray,
        excluded: np.ndarray,
        settings: Graph,
        seed: int,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.tree, self.kept, self.excluded, self.held_out = tree, kept, excluded, held_out
        self.quotas = quotas(settings.bucket_percentages, settings.k_negatives)
        # What stands in `rest` of the keys is made here, as Buckets of a block of anchors.
        rest = stage.Buckets(difficulty_buckets=tuple(self.quotas), bucket_percentages=settings.bucket_percentages)
        self.mined = stage.Mined(share=settings.hard_negatives, rest=rest)
        self.random = np.random.default_rng(seed)

    def draw(self, distances: Distances | None = None) -> Triplets:
        """New triplets of all anchors.

        Args:
            distances: from anchors to all n codes in the embedding. With it the share `hard_negatives` of each anchor's
                negatives are the nearest ones there.
        """
        size = max(1, _BLOCK_ENTRIES // len(self.kept))
        starts = range(0, len(self.kept), size)
        blocks = [self._block(np.arange(start, min(start + size, len(self.kept))), distances) for start in starts]
        return Triplets(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))

    def _block(self, anchors: np.ndarray, distances: Distances | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The triplets of some anchors."""
        candidates = Candidates.of(self.tree, self.excluded, self.held_out, self.kept[anchors], self.kept)
        pairs = _positives(candidates, self.random)
        policy: NegativePolicy = Buckets(candidates, self.quotas)
        state = CurriculumState()
        if distances is not None:
            state.see("points", distances(anchors))
            policy = Nearest(candidates, self.mined, policy, sum(self.quotas.values()))
        negatives = policy.draw(pairs, state, self.random).codes
        return anchors[pairs.anchor], pairs.positive, negatives


def _positives(candidates: Candidates, random: np.random.Generator) -> Pairs:
    """One positive for each anchor that has a relative, and a code farther away than that; anchors as rows."""
    count = np.diff(candidates.start, axis=1)
    same = (GROUP_HALF_STEPS[:, None] == GROUP_HALF_STEPS) & _RELATED
    # Any distance is as likely as any other, any code of it as well.
    weight = np.where(_RELATED, 1 / np.maximum(count @ same, 1), 0.0)
    rows = np.flatnonzero((count * _RELATED).any(axis=1))
    positive, _ = candidates.pick_groups(rows, weight[rows], 1, random)
    pairs = Pairs(rows, positive[:, 0])
    return pairs.at(np.flatnonzero((count[rows] * candidates.farther(rows, pairs.positive)).any(axis=1)))
