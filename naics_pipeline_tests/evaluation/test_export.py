"""Files for other viewers hold what these read."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.evaluation.export import export_atlas, export_projector
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings


@pytest.fixture
def space(sample_tree: Tree) -> Embeddings:
    place = np.random.default_rng(0).normal(size=(len(sample_tree), 5))
    return Embeddings(sample_tree.codes[::-1], lorentz.exp0(torch.from_numpy(place)).numpy()[::-1])


def test_projector_has_a_vector_for_every_line_of_metadata(space: Embeddings, tmp_path: Path) -> None:
    export_projector(space, {"11": "Farms\tand\nmore"}, tmp_path / "run")
    vectors = np.loadtxt(tmp_path / "run" / "vectors.tsv", delimiter="\t")
    lines = (tmp_path / "run" / "metadata.tsv").read_text().splitlines()
    assert len(vectors) == len(lines) - 1 == len(space.codes)
    assert lines[:2] == ["code\ttitle\tlevel\tsector\tsector_title", "11\tFarms and more\t2\t11\tFarms and more"]
    radius = lorentz.radius(torch.from_numpy(space.points[::-1].copy())).numpy()
    assert np.allclose(np.linalg.norm(vectors, axis=1), radius, atol=1e-4)
    config = (tmp_path / "run" / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config
    assert 'metadata_path: "metadata.tsv"' in config


def test_atlas_has_places_and_true_neighbours(space: Embeddings, tmp_path: Path) -> None:
    path = tmp_path / "atlas.parquet"
    export_atlas(space, {}, path)
    frame = pl.read_parquet(path)
    assert (frame["x"] ** 2 + frame["y"] ** 2 < 1).all()
    assert frame.schema["neighbors"] == pl.Struct({"ids": pl.List(pl.Int64), "distances": pl.List(pl.Float64)})
    points = torch.from_numpy(space.points[::-1].copy())
    distances = lorentz.pairwise_distance(points, points).numpy()
    near = frame["neighbors"].to_list()
    assert [row["ids"][0] for row in near] == list(range(len(points)))
    for code in (0, 100):
        order = np.argsort(np.where(np.arange(len(points)) == code, -1, distances[code]), kind="stable")
        assert near[code]["ids"] == order[:13].tolist()
        assert np.allclose(near[code]["distances"][1:], distances[code][order[1:13]])
