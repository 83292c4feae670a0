"""A small tree and points that know it, for all tests of refinement."""

import math

import numpy as np
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

QUICK = Graph(steps=40, steps_per_epoch=10, left_out_fraction=0.2, dropout=0.0)


def small_tree(sectors: int = 3) -> Tree:
    codes = ["11", "22", "31"][:sectors]
    for level in range(3, 7):
        above = [code for code in codes if len(code) == level - 1]
        codes += [code + digit for code in above for digit in ("12" if level < 6 else "123")]
    return Tree.from_codes(codes)


def text_of(tree: Tree, *, dim: int = 8, noise: float = 0.7, curvature: float = 1.0) -> Embeddings:
    """Points that know the tree, under noise: each code's step away from its parent, and some of its own."""
    random = np.random.default_rng(0)
    steps = random.normal(size=(len(tree), dim))
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.vstack([steps, np.zeros((1, dim))])
    v = steps[tree.ancestors()].sum(axis=1) + noise * random.normal(size=(len(tree), dim)) / math.sqrt(dim)
    points = lorentz.exp0(torch.from_numpy(v) / math.sqrt(curvature), curvature=curvature).numpy()
    return Embeddings(tree.codes, points, curvature)


def no_exclusions(tree: Tree) -> np.ndarray:
    return np.zeros((len(tree), len(tree)), dtype=bool)
