"""The graph model at full size: its pair terms, its triplets, ten steps of it, and free text joining its space."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import texts
from benchmarks.measure import Row, Work
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.objective import PairTerms, TextDistances
from naics_pipeline.graph_model.query_map import QueryMap
from naics_pipeline.graph_model.refine import _Fit, _Training, refine
from naics_pipeline.graph_model.sampling import TripletSampler
from naics_pipeline.settings import Graph, Model
from naics_pipeline.taxonomy.tree import Tree, held_out_pairs
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree

DIM = Model().embedding_dim
QUERIES = 500
NAIVE_ANCHORS = 20

ROWS = [
    Row("tree-distance stress and retention over all pairs, with gradient", "pairs_in_blocks", "pairs_at_once"),
    Row("one positive and 16 negatives for each code", "draw_triplets", "draw_one_by_one"),
    Row("10 steps of refinement", "ten_steps"),
    Row(f"{QUERIES} queries into the refined space", "move_queries"),
    Row("10 steps alone, 300 synthetic codes", "steps_of_300"),
    Row("10 steps alone, 2,125 synthetic codes", "steps_of_2125"),
    Row("10 steps alone, 20,000 synthetic codes, each on a sample of 4 million pairs", "steps_of_20000"),
    Row("triplets, the nearest negatives among them, 20,000 synthetic codes", "hard_triplets_of_20000"),
]


def _space(tree: Tree | None = None) -> tuple[Tree, Embeddings]:
    """Points that know the tree, those of a level on one sphere."""
    tree = tree or Tree.from_codes(texts()["code"].to_list())
    random = np.random.default_rng(0)
    steps = np.vstack([random.normal(size=(len(tree), DIM)), np.zeros((1, DIM))]) / DIM**0.5
    v = steps[tree.ancestors()].sum(axis=1)
    v *= ((tree.ancestors() >= 0).sum(axis=1) / np.linalg.norm(v, axis=1))[:, None]
    return tree, Embeddings(tree.codes, lorentz.exp0(torch.from_numpy(v)).numpy())


def pairs_in_blocks(directory: Path) -> Work:
    tree, text = _space()
    points = torch.from_numpy(text.points).requires_grad_()
    distances = TextDistances(torch.from_numpy(text.points), text.curvature, 1.0)
    pairs = PairTerms(tree, distances, np.arange(len(tree)), torch.device("cpu"), pairs_per_step=4_000_000, seed=0)
    curvature = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def work() -> None:
        pairs.backward(points, curvature, {"stress": 1.0, "retention": 0.1})

    return work


def pairs_at_once(directory: Path) -> Work:
    """One N × N matrix, both halves of it."""
    tree, text = _space()
    points = torch.from_numpy(text.points).requires_grad_()
    curvature = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    steps = torch.from_numpy(tree.tree_distance().astype(np.float64)).clamp_min(1)
    same = torch.from_numpy(tree.lca_depth() > 0)

    def work() -> None:
        distance = lorentz.pairwise_distance(points, points, curvature=curvature)
        error = (distance - steps).square()
        ((error / steps).mean() + 0.1 * (error * same).mean()).backward()

    return work


def draw_triplets(directory: Path) -> Work:
    tree, _ = _space()
    sampler = TripletSampler(tree, np.arange(len(tree)), np.zeros((len(tree),) * 2, dtype=bool), Graph(), seed=0)

    def work() -> None:
        sampler.draw()

    return work


def draw_one_by_one(directory: Path) -> tuple[Work, float]:
    """Per anchor in Python: a positive, then negatives among the codes farther away."""
    tree, _ = _space()
    distance, random = tree.distance().tolist(), np.random.default_rng(0)

    def work() -> None:
        for row in distance[:NAIVE_ANCHORS]:
            positive = random.choice([d for d in row if 0 < d < 10])
            random.choice([code for code, d in enumerate(row) if d > positive], 16, replace=False)

    return work, NAIVE_ANCHORS / len(tree)


def ten_steps(directory: Path) -> Work:
    tree, text = _space()
    excluded = np.zeros((len(tree),) * 2, dtype=bool)

    def work() -> None:
        refine(text, tree, excluded, Graph(steps=10, left_out_fraction=0), seed=0, accelerator="cpu")

    return work


def move_queries(directory: Path) -> Work:
    """Texts a step away from six-digit codes."""
    tree, text = _space()
    query_map = QueryMap.fit(text, text)
    random = np.random.default_rng(1)
    leaves = random.choice(np.flatnonzero(tree.level == tree.level.max()), QUERIES)
    steps = random.normal(size=(QUERIES, DIM)) / DIM**0.5
    v = lorentz.log0(torch.from_numpy(text.points[leaves])) + torch.from_numpy(steps)
    queries = lorentz.exp0(v * (tree.level.max() - 1) / lorentz.norm(v)).numpy()

    def work() -> None:
        query_map.apply(queries)

    return work


def _training(codes: int) -> _Training:
    """A fit that is ready for its steps, a twentieth of all pairs held out."""
    tree, text = _space(balanced_tree(codes))
    excluded, held_out = np.zeros((codes, codes), dtype=bool), held_out_pairs(tree, 0.05)
    fit = _Fit(text, tree, excluded, Graph(steps=10), torch.device("cpu"), held_out)
    kept = np.arange(codes)
    training = _Training(fit, fit.model(kept), kept, seed=0)
    training.triplets = training.sampler.draw()
    return training


def _steps(codes: int, directory: Path) -> Work:
    training = _training(codes)

    def work() -> None:
        for step in range(10):
            training._step(step)

    return work


steps_of_300, steps_of_2125, steps_of_20000 = (partial(_steps, codes) for codes in (300, 2125, 20_000))


def hard_triplets_of_20000(directory: Path) -> Work:
    training = _training(20_000)
    return lambda: print(len(training.sampler.draw(training._distances()).anchor))
