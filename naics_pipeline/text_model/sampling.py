"""Which pairs and negatives a stage trains on: drawn anew each epoch, and the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from naics_pipeline.errors import SettingsError
from naics_pipeline.taxonomy.tree import RELATION_NAMES, Tree
from naics_pipeline.taxonomy.triplets import hardness
from naics_pipeline.text_model.curriculum import EASIEST, HARDEST, Stage


@dataclass(frozen=True)
class Pairs:
    """A batch of B pairs with their negatives, as indices of codes.

    Attributes:
        anchor, positive: (B,) int64.
        negative: (B, K) int64.
        hardness: (B, K) uint8, the bucket each negative was drawn from.
    """

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    hardness: np.ndarray


def pair_mask(stage: Stage, tree: Tree) -> np.ndarray:
    """(N, N) bool: which (anchor, positive) the stage's keys allow.

    Raises:
        SettingsError: a relation is not one of the taxonomy's, or no pair is left.
    """
    distance = tree.distance()
    allowed = (tree.lca_depth() > 0) & np.isin(tree.level, stage.positive_levels)[None, :]
    np.fill_diagonal(allowed, False)
    if stage.positive_distance_min is not None:
        allowed &= distance >= stage.positive_distance_min
    if stage.positive_distance_max is not None:
        allowed &= distance <= stage.positive_distance_max
    if stage.positive_relations is not None:
        identities = {name: identity for identity, name in RELATION_NAMES.items()}
        unknown = [name for name in stage.positive_relations if name not in identities]
        if unknown:
            raise SettingsError(
                f"stage {stage.name}: positive_relations: unknown relation '{unknown[0]}'; "
                f"known are {', '.join(identities)}."
            )
        allowed &= np.isin(tree.relation_id(), [identities[name] for name in stage.positive_relations])
    # A pair without any code farther away than the positive has no negative.
    allowed &= distance < distance.max(axis=1, keepdims=True)
    if not allowed.any():
        raise SettingsError(
            f"stage {stage.name}: no pair of the taxonomy has positive_levels {list(stage.positive_levels)} within the "
            "given distances and relations. Widen them."
        )
    return allowed


def draw_pairs(
    allowed: np.ndarray, max_positives: int | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(anchor, positive) indices of an epoch in random order, at most `max_positives` an anchor."""
    anchor, positive = np.nonzero(allowed)
    order = np.lexsort((generator.random(len(anchor)), anchor))
    anchor, positive = anchor[order], positive[order]
    first = np.searchsorted(anchor, anchor)
    kept = np.arange(len(anchor)) - first < (max_positives or len(anchor))
    order = generator.permutation(np.flatnonzero(kept))
    return anchor[order], positive[order]


class NegativeSampler:
    """Draws K negatives for each pair by difficulty bucket.

    A bucket that is short falls back to the next easier one that has codes to spare, then to any harder one; within K a
    negative repeats only where the taxonomy has fewer than K.

    Args:
        held_out: (N, N) bool, pairs that are never drawn.

    Attributes:
        quotas: bucket to the number of negatives it should give.
        drawn, short: negatives really drawn by bucket, and how many a bucket fell short of its quota, so far.
    """

    def __init__(
        self, tree: Tree, excluded: np.ndarray, quotas: dict[int, int], held_out: np.ndarray | None = None
    ) -> None:
        self.held_out = held_out
        self.distance = tree.distance()
        self.excluded = excluded
        self.quotas = quotas
        self.drawn = np.zeros(HARDEST + 1, dtype=np.int64)
        self.short = np.zeros(HARDEST + 1, dtype=np.int64)

    def draw(
        self, anchor: np.ndarray, positive: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Negatives of B pairs: their indices and their buckets, both (B, K)."""
        grade = hardness(self.distance[anchor, positive][:, None], self.distance[anchor], self.excluded[anchor])
        if self.held_out is not None:
            grade = np.where(self.held_out[anchor], np.uint8(0), grade)
        counts = np.stack([(grade == bucket).sum(axis=1) for bucket in range(HARDEST + 1)], axis=1)
        taken = self._allocate(counts)
        # Codes sorted by bucket, at random inside one: a bucket's share is then a run from its start.
        order = np.argsort(grade + 0.99 * generator.random(grade.shape, dtype=np.float32), axis=1)
        starts = np.cumsum(counts, axis=1) - counts
        k = sum(self.quotas.values())
        bucket = np.argmax(np.cumsum(taken, axis=1)[:, None, :] > np.arange(k)[None, :, None], axis=2)
        before = np.take_along_axis(np.cumsum(taken, axis=1) - taken, bucket, axis=1)
        within = (np.arange(k) - before) % np.take_along_axis(counts, bucket, axis=1)
        negative = np.take_along_axis(order, np.take_along_axis(starts, bucket, axis=1) + within, axis=1)
        self.drawn += np.bincount(bucket.ravel(), minlength=HARDEST + 1)
        return negative, bucket.astype(np.uint8)

    def _allocate(self, counts: np.ndarray) -> np.ndarray:
        """(B, buckets) how many each bucket gives, from (B, buckets) how many codes it has."""
        taken = np.zeros_like(counts)
        for bucket, quota in self.quotas.items():
            taken[:, bucket] = np.minimum(counts[:, bucket], quota)
            self.short[bucket] += (quota - taken[:, bucket]).sum()
        for bucket, quota in self.quotas.items():
            missing = quota - np.minimum(counts[:, bucket], quota)
            easier, harder = range(bucket - 1, EASIEST - 1, -1), range(bucket + 1, HARDEST + 1)
            for other in (*easier, *harder):
                extra = np.minimum(missing, counts[:, other] - taken[:, other])
                taken[:, other] += extra
                missing = missing - extra
            # Fewer than K negatives in all: the fullest bucket repeats its own.
            taken[np.arange(len(taken)), counts[:, EASIEST:].argmax(axis=1) + EASIEST] += missing
        return taken

    def shares(self) -> dict[int, float]:
        """Share of all negatives drawn so far by bucket."""
        total = max(1, int(self.drawn.sum()))
        return {bucket: float(count) / total for bucket, count in enumerate(self.drawn) if count}

    def shortfall(self) -> str | None:
        """What buckets that fell short lack, as one sentence; None where none did."""
        short = {bucket: int(missing) for bucket, missing in enumerate(self.short) if missing}
        if not short:
            return None
        asked = self.drawn.sum() / sum(self.quotas.values())
        parts = [f"bucket {b} lacked {n} of {int(self.quotas[b] * asked)}" for b, n in short.items()]
        return f"{'; '.join(parts)} negatives, which other buckets gave instead"


def epoch_batches(
    stage: Stage, allowed: np.ndarray, sampler: NegativeSampler, *, pairs_per_batch: int, generator: np.random.Generator
) -> Iterator[Pairs]:
    """Every pair that an epoch of the stage draws, in batches."""
    anchors, positives = draw_pairs(allowed, stage.max_positives, generator)
    for start in range(0, len(anchors), pairs_per_batch):
        anchor, positive = anchors[start : start + pairs_per_batch], positives[start : start + pairs_per_batch]
        negative, bucket = sampler.draw(anchor, positive, generator)
        yield Pairs(anchor, positive, negative, bucket)
