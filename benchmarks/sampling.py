"""Drawing at full size: a million negatives of each kind, k-means of all codes."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import texts
from benchmarks.graph import _space
from benchmarks.measure import Row, Work
from naics_pipeline.geometry import lorentz
from naics_pipeline.geometry.kmeans import kmeans
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.registry import policy_of
from naics_pipeline.text_model.curriculum.pairs import draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.state import CurriculumState

DRAWS, NEGATIVES, PAIRS = 1_000_000, 16, 256
ITERATIONS, CLUSTERS = 10, 256
_TREE_DISTANCE = stage.TreeDistance(exclusion_boost=2.0)
KINDS: dict[str, stage.Negatives] = {
    "buckets": stage.Buckets(
        difficulty_buckets=(1, 2, 3, 4, 5, 6, 8),
        bucket_percentages={1: 0.40, 2: 0.20, 3: 0.10, 4: 0.10, 5: 0.10, 6: 0.05, 8: 0.05},
    ),
    "tree_distance": _TREE_DISTANCE,
    "near_far": stage.NearFar(),
    "mined": stage.Mined(rest=_TREE_DISTANCE),
    "mined_of_the_batch": stage.Mined(pool="batch", rest=_TREE_DISTANCE),
    "router_guided": stage.RouterGuided(rest=_TREE_DISTANCE),
}
ROWS = [
    *(Row(f"a million negatives, {kind.replace('_', ' ')}", f"draw_{kind}") for kind in KINDS),
    Row(f"{ITERATIONS} iterations of k-means, all codes in {CLUSTERS} clusters", "cluster"),
]


def _draw(kind: str, directory: Path) -> Work:
    frame = texts()
    tree = Tree.from_codes(frame["code"].to_list())
    excluded, held_out = excluded_matrix(frame, tree), held_out_pairs(tree, 0.05)
    every = stage.Stage(name="all", positive_levels=(2, 3, 4, 5, 6), negatives=KINDS[kind], epochs=1, learning_rate=1)
    policy = policy_of(KINDS[kind], Candidates.of(tree, excluded, held_out), NEGATIVES)
    generator = np.random.default_rng(0)
    allowed = pair_mask(every, tree, excluded, held_out) & ~held_out
    pairs = draw_pairs(allowed, None, generator)
    state = CurriculumState()
    points = torch.from_numpy(_space(tree)[1].points)
    for by in ("points", "gates"):
        state.see(by, lorentz.pairwise_distance(points, points).float().numpy())

    def work() -> None:
        for start in range(0, DRAWS // NEGATIVES, PAIRS):
            policy.draw(pairs.at(slice(start, start + PAIRS)), state, generator)

    return work


def cluster(directory: Path) -> Work:
    points = torch.from_numpy(_space()[1].points)

    def work() -> None:
        kmeans(points, CLUSTERS, seed=0, max_steps=ITERATIONS)

    return work


def __getattr__(name: str) -> partial[Work]:
    """draw_{kind}: a function for each kind of negatives."""
    if name.startswith("draw_") and name.removeprefix("draw_") in KINDS:
        return partial(_draw, name.removeprefix("draw_"))
    raise AttributeError(name)
