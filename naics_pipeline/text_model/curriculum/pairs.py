"""Which pairs of codes a stage draws together: anew each epoch, and the same for the same generator."""

import numpy as np

from naics_pipeline.errors import SettingsError
from naics_pipeline.taxonomy.tree import LEVELS, RELATION_NAMES, Tree
from naics_pipeline.text_model.curriculum.negatives.policy import Pairs
from naics_pipeline.text_model.curriculum.stage import Stage


def pair_mask(stage: Stage, tree: Tree, excluded: np.ndarray, held_out: np.ndarray | None = None) -> np.ndarray:
    """(N, N) bool: which (anchor, positive) the stage's keys allow, each with some code that can be its negative.

    Args:
        excluded: (N, N) bool, pairs of codes that exclude one another.
        held_out: (N, N) bool, pairs that are no negatives either; None: every pair may be.

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
    if stage.pairs == "ancestors":
        allowed &= tree.lca_depth() == (tree.level - LEVELS[0] + 1)[None, :]
    if stage.pairs == "exclusions":
        allowed &= distance < np.where(excluded, distance, 0).max(axis=1, keepdims=True)
    seen = distance if held_out is None else np.where(held_out, 0, distance)
    allowed &= distance < seen.max(axis=1, keepdims=True)
    if not allowed.any():
        raise SettingsError(
            f"stage {stage.name}: no pair of the taxonomy has positive_levels {list(stage.positive_levels)} within the "
            "given distances and relations and a code farther away that may be its negative. Widen them."
        )
    return allowed


def draw_pairs(allowed: np.ndarray, max_positives: int | None, generator: np.random.Generator) -> Pairs:
    """The pairs of an epoch in random order, at most `max_positives` an anchor."""
    anchor, positive = np.nonzero(allowed)
    order = np.lexsort((generator.random(len(anchor)), anchor))
    anchor, positive = anchor[order], positive[order]
    first = np.searchsorted(anchor, anchor)
    kept = np.arange(len(anchor)) - first < (max_positives or len(anchor))
    order = generator.permutation(np.flatnonzero(kept))
    return Pairs(anchor[order], positive[order])
