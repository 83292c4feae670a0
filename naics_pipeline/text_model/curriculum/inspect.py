"""What a stage draws, without training: pairs by relation and distance, negatives by bucket, and examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from naics_pipeline.errors import SettingsError
from naics_pipeline.taxonomy.tree import RELATION_NAMES, Tree
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import Negatives, Pairs
from naics_pipeline.text_model.curriculum.negatives.registry import policy_of
from naics_pipeline.text_model.curriculum.pairs import draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.stage import Mined, RouterGuided, Stage
from naics_pipeline.text_model.curriculum.state import CurriculumState


@dataclass(frozen=True)
class Drawn:
    """What one epoch of a phase draws.

    Attributes:
        phase: its name.
        waits: policies that look at the model, and are left out here.
        pairs: rows of relation, distance, pairs and share.
        negatives: rows of bucket, asked, drawn, share and short.
        examples: rows of anchor, positive and negatives, codes with their titles.
    """

    phase: str
    waits: list[str]
    pairs: pl.DataFrame
    negatives: pl.DataFrame
    examples: pl.DataFrame


def inspect_stage(
    stage: Stage, tree: Tree, excluded: np.ndarray, held_out: np.ndarray, titles: Sequence[str], *, seed: int
) -> list[Drawn]:
    """What an epoch of each phase draws.

    Policies that look at the model (mined, router_guided) give way to the one that draws the rest.

    Args:
        excluded, held_out: (N, N) bool, pairs that exclude one another, and those that are never drawn.
        titles: of the N codes.
    Raises:
        SettingsError: the stage compares no codes.
    """
    if not stage.all_phases:
        raise SettingsError(f"stage {stage.name} draws no pairs of codes: it learns from short texts alone.")
    candidates = Candidates.of(tree, excluded, held_out)
    allowed = pair_mask(stage, tree, excluded, held_out) & ~held_out
    found = []
    for number, phase in enumerate(stage.all_phases):
        generator = np.random.default_rng([seed, number])
        pairs = draw_pairs(allowed, stage.max_positives, generator)
        state = CurriculumState(epoch=_first_epoch(stage, number), epochs=max(1, stage.epochs))
        plain, waits = phase.negatives, []
        while isinstance(plain, Mined | RouterGuided):
            waits.append(f"{plain.kind} ({state.value(plain.share):.2f})")
            plain = plain.rest
        negatives = policy_of(plain, candidates, stage.k_negatives).draw(pairs, state, generator)
        found.append(
            Drawn(
                phase=phase.name,
                waits=waits,
                pairs=_pairs(pairs, tree),
                negatives=_negatives(negatives),
                examples=_examples(pairs, negatives, tree, titles),
            )
        )
    return found


def _first_epoch(stage: Stage, number: int) -> int:
    begin = stage.all_phases[number - 1].until if number else 0.0
    return int(np.ceil(begin * stage.epochs - 1e-9))


def _pairs(pairs: Pairs, tree: Tree) -> pl.DataFrame:
    names = [RELATION_NAMES[int(one)] for one in tree.relation_id()[pairs.anchor, pairs.positive]]
    frame = pl.DataFrame({"relation": names, "distance": tree.distance()[pairs.anchor, pairs.positive]})
    counted = frame.group_by("relation", "distance").len("pairs").sort("distance", "relation")
    return counted.with_columns(share=pl.col("pairs") / pl.col("pairs").sum())


def _negatives(negatives: Negatives) -> pl.DataFrame:
    counts = {"asked": negatives.asked, "drawn": negatives.counts(), "short": negatives.short}
    frame = pl.DataFrame({"bucket": np.arange(len(negatives.short)), **counts})
    frame = frame.filter((pl.col("asked") > 0) | (pl.col("drawn") > 0))
    return frame.with_columns(share=pl.col("drawn") / pl.col("drawn").sum())


def _examples(pairs: Pairs, negatives: Negatives, tree: Tree, titles: Sequence[str], count: int = 3) -> pl.DataFrame:
    def named(code: int) -> str:
        return f"{tree.codes[code]} {titles[code]}"

    rows = range(min(count, len(pairs.anchor)))
    hardest = np.argsort(-negatives.hardness[: len(rows)].astype(int), axis=1, kind="stable")[:, :4]
    return pl.DataFrame(
        {
            "anchor": [named(pairs.anchor[row]) for row in rows],
            "positive": [named(pairs.positive[row]) for row in rows],
            "negatives": [[named(negatives.codes[row, k]) for k in hardest[row]] for row in rows],
        },
        schema={"anchor": pl.String, "positive": pl.String, "negatives": pl.List(pl.String)},
    )
