"""Negatives by difficulty: a share of each bucket of hardness."""

import numpy as np

from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.taxonomy.triplets import hardness
from naics_pipeline.text_model.curriculum.negatives.policy import GRADES, Negatives
from naics_pipeline.text_model.curriculum.pairs import Pairs
from naics_pipeline.text_model.curriculum.stage import EASIEST, HARDEST
from naics_pipeline.text_model.curriculum.state import CurriculumState


class Buckets:
    """Draws K negatives for each pair by difficulty bucket.

    A bucket that is short falls back to the next easier one that has codes to spare, then to any harder one; within K a
    negative repeats only where the taxonomy has fewer than K.

    Args:
        quotas: bucket to the number of negatives it should give.
        held_out: (N, N) bool, pairs that are never drawn.
    """

    def __init__(
        self, tree: Tree, excluded: np.ndarray, quotas: dict[int, int], held_out: np.ndarray | None = None
    ) -> None:
        self.held_out = held_out
        self.distance = tree.distance()
        self.excluded = excluded
        self.quotas = quotas

    def draw(self, pairs: Pairs, state: CurriculumState, generator: np.random.Generator) -> Negatives:
        anchor, positive = pairs.anchor, pairs.positive
        grade = hardness(self.distance[anchor, positive][:, None], self.distance[anchor], self.excluded[anchor])
        if self.held_out is not None:
            grade = np.where(self.held_out[anchor], np.uint8(0), grade)
        counts = np.stack([(grade == bucket).sum(axis=1) for bucket in range(GRADES)], axis=1)
        taken, short = self.allocate(counts)
        # Codes sorted by bucket, at random inside one: a bucket's share is then a run from its start.
        order = np.argsort(grade + 0.99 * generator.random(grade.shape, dtype=np.float32), axis=1)
        starts = np.cumsum(counts, axis=1) - counts
        k = sum(self.quotas.values())
        bucket = np.argmax(np.cumsum(taken, axis=1)[:, None, :] > np.arange(k)[None, :, None], axis=2)
        before = np.take_along_axis(np.cumsum(taken, axis=1) - taken, bucket, axis=1)
        within = (np.arange(k) - before) % np.take_along_axis(counts, bucket, axis=1)
        negative = np.take_along_axis(order, np.take_along_axis(starts, bucket, axis=1) + within, axis=1)
        return Negatives(negative, bucket.astype(np.uint8), short)

    def allocate(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, buckets) how many each bucket gives, from (B, buckets) how many codes it has; and what buckets lack."""
        taken = np.zeros_like(counts)
        short = np.zeros(GRADES, dtype=np.int64)
        for bucket, quota in self.quotas.items():
            taken[:, bucket] = np.minimum(counts[:, bucket], quota)
            short[bucket] = (quota - taken[:, bucket]).sum()
        for bucket, quota in self.quotas.items():
            missing = quota - np.minimum(counts[:, bucket], quota)
            easier, harder = range(bucket - 1, EASIEST - 1, -1), range(bucket + 1, HARDEST + 1)
            for other in (*easier, *harder):
                extra = np.minimum(missing, counts[:, other] - taken[:, other])
                taken[:, other] += extra
                missing = missing - extra
            # Fewer than K negatives in all: the fullest bucket repeats its own.
            taken[np.arange(len(taken)), counts[:, EASIEST:].argmax(axis=1) + EASIEST] += missing
        return taken, short
