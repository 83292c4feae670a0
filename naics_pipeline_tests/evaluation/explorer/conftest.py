"""A small explorable page."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.evaluation.explorer.content import explorer_content
from naics_pipeline.evaluation.explorer.texts import SearchedTexts
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings


@pytest.fixture(scope="session")
def space(sample_tree: Tree) -> Embeddings:
    """Every code at its parent's place and a step on."""
    generator = np.random.default_rng(0)
    place = np.zeros((len(sample_tree), 8))
    for code in np.argsort(sample_tree.level, kind="stable"):
        parent = sample_tree.parent[code]
        place[code] = (place[parent] if parent >= 0 else 0) + generator.normal(size=8) / 4
    return Embeddings(sample_tree.codes, lorentz.exp0(torch.from_numpy(place), curvature=0.5).numpy(), 0.5)


@pytest.fixture(scope="session")
def searched(space: Embeddings) -> SearchedTexts:
    """Three texts for each of ten codes; of the first code's one is taken for the second code's."""
    candidates = space.codes[space.level == 6]
    right = np.repeat(np.arange(10), 3)
    probabilities = np.full((30, len(candidates)), 0.2 / (len(candidates) - 1))
    found = right.copy()
    found[0] = 1
    probabilities[np.arange(30), found] = 0.8
    texts = [f"text {row} </script><b>&" for row in range(30)]
    return SearchedTexts(texts, candidates, right, probabilities)


@pytest.fixture(scope="session")
def content(
    space: Embeddings, searched: SearchedTexts, sample_descriptions: pl.DataFrame, sample_tree: Tree
) -> dict[str, Any]:
    spaces = {"Refined": space, "Text model": space}
    examples = pl.DataFrame({"code": ["311811", "311811", "11"], "text": ["Stollen ovens", "Rye bread", "Fields"]})
    return explorer_content(
        spaces, sample_descriptions, sample_tree, texts=searched, examples=examples, about="sample </script> & more"
    )
