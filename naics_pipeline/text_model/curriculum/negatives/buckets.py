"""Negatives by difficulty: a share of each bucket of hardness."""

import numpy as np

from naics_pipeline.settings import EASIEST, HARDEST
from naics_pipeline.text_model.curriculum.negatives.candidates import GROUP_HARDNESS, Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import GRADES, Negatives, Pairs
from naics_pipeline.text_model.curriculum.state import CurriculumState


def _bounds() -> np.ndarray:
    """(21, grades, 2): by twice the distance of the positive, the first group of each bucket and the one after it."""
    bounds = np.zeros((len(GROUP_HARDNESS), GRADES, 2), dtype=np.int64)
    for half, grades in enumerate(GROUP_HARDNESS):
        for bucket in np.unique(grades[grades > 0]):
            groups = np.flatnonzero(grades == bucket)
            bounds[half, bucket] = groups[0], groups[-1] + 1
    return bounds


_BOUNDS = _bounds()


class Buckets:
    """Draws K negatives for each pair by difficulty bucket.

    A bucket that is short falls back to the next easier one that has codes to spare, then to any harder one; within K a
    negative repeats only where the taxonomy has fewer than K.

    Args:
        quotas: bucket to the number of negatives it should give.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, candidates: Candidates, quotas: dict[int, int]) -> None:
        self.candidates, self.quotas = candidates, quotas
        self.k = sum(quotas.values())

    def draw(self, pairs: Pairs, state: CurriculumState, generator: np.random.Generator) -> Negatives:
        row, start = pairs.anchor, self.candidates.start[pairs.anchor]
        groups = _BOUNDS[self.candidates.half_steps[row, pairs.positive]]
        low, high = (np.take_along_axis(start, groups[..., side], axis=1) for side in (0, 1))
        taken, short = self.allocate(high - low)
        bucket = np.argmax(np.cumsum(taken, axis=1)[:, None, :] > np.arange(self.k)[None, :, None], axis=2)
        own_low, own_size = (np.take_along_axis(values, bucket, axis=1) for values in (low, high - low))
        asked = np.zeros(GRADES, dtype=np.int64)
        asked[list(self.quotas)] = np.array(list(self.quotas.values())) * len(row)
        codes = self.candidates.pick(row, own_low, own_size, generator)
        return Negatives(codes, bucket.astype(np.uint8), asked, short)

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
                if not missing.any():
                    break
                extra = np.minimum(missing, counts[:, other] - taken[:, other])
                taken[:, other] += extra
                missing = missing - extra
            # Fewer than K negatives in all: the fullest bucket repeats its own.
            taken[np.arange(len(taken)), counts[:, EASIEST:].argmax(axis=1) + EASIEST] += missing
        return taken, short
