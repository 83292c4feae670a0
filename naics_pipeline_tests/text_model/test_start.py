"""Where training starts with the packaged base model: about where that model stands by itself."""

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.settings import Settings, Tokens
from naics_pipeline.taxonomy.text import TRAIN
from naics_pipeline.text_model.base import encode_texts, locate
from naics_pipeline.text_model.training.inputs import EXAMPLE, TITLE
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline_tests.text_model.small import module_of

BASE = "all-MiniLM-L6-v2"
ALIKE = 0.01
"""Of a hit rate: within a point."""


@pytest.fixture(scope="module")
def module(inputs_of) -> StageModule:
    settings = Settings()
    path = str(locate(BASE))
    # Its own vectors are what it starts with: with a share of them, all would only be read twice.
    model = settings.model.model_copy(update={"base": path, "base_share": 0.0})
    tokens = Tokens(description=64, excluded=16)
    settings = settings.model_copy(update={"model": model, "tokens": tokens, "accelerator": "cpu"})
    return module_of(inputs_of(settings), settings)[0]


def hits(distances: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Shares of texts whose right code is the nearest, and one of the five nearest."""
    rank = (distances < np.take_along_axis(distances, right[:, None], axis=1)).sum(axis=1)
    return np.array([(rank < 1).mean(), (rank < 5).mean()])


def test_the_space_starts_no_worse_than_the_frozen_vectors_at_its_dimension(module, frames) -> None:
    inputs, entries = module.plan.inputs, frames["index_entries"].filter(pl.col("split") != TRAIN)
    vectors = encode_texts(BASE, entries["entry"].to_list())
    leaves = module.tree.leaves.numpy()
    right = module.tree.leaf_of.numpy()[inputs.tree.position(entries["code"])]
    frozen = module.tables.short.values.double().numpy()
    some = np.arange(0, len(frozen), 97)
    alone = encode_texts(BASE, [inputs.short.texts[row] for row in some])
    np.testing.assert_allclose(frozen[some], alone, atol=1e-4)

    mean = frozen.mean(0)
    components = np.linalg.svd(frozen - mean, full_matrices=False)[2][: module.settings.model.embedding_dim]

    def cosines(texts: np.ndarray, places: np.ndarray) -> np.ndarray:
        texts, places = ((part - mean) @ components.T for part in (texts, places))
        return (texts / np.linalg.norm(texts, axis=1, keepdims=True)) @ (
            places / np.linalg.norm(places, axis=1, keepdims=True)
        ).T

    of_leaf = np.isin(inputs.short.kind, (TITLE, EXAMPLE)) & np.isin(inputs.short.code, leaves)
    rows = np.flatnonzero(of_leaf)
    owner = module.tree.leaf_of.numpy()[inputs.short.code[rows]]
    centroids = np.stack([frozen[rows[owner == leaf]].mean(0) for leaf in range(len(leaves))])

    def nearest(distances: np.ndarray) -> np.ndarray:
        return np.stack([distances[:, owner == leaf].min(axis=1) for leaf in range(len(leaves))], axis=1)

    fusion, codes = module.model.fusion, module.tables.code_vectors()
    with torch.no_grad():
        points = module.model.code_points(codes, inputs.tree.codes)[module.tree.leaves].double()
        places = fusion.place_texts(module.tables.short.values[torch.from_numpy(rows)]).double()
        texts = fusion.place_texts(torch.from_numpy(vectors)).double()
        to_codes, to_places = (fusion.distances(texts, part).numpy() for part in (points, places))
    by_code, frozen_by_code = hits(to_codes, right), hits(-cosines(vectors, centroids), right)
    by_entry, frozen_by_entry = hits(nearest(to_places), right), hits(nearest(-cosines(vectors, frozen[rows])), right)
    assert len(right) > 100
    assert (by_code >= frozen_by_code - ALIKE).all()
    assert (by_entry >= frozen_by_entry - ALIKE).all()
    # It is worth something: chance is one in fifty.
    assert frozen_by_code[0] > 0.6
