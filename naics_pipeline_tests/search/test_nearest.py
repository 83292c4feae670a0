"""Exact search: order, filters, both geometries, and help for a code that is not there."""

import numpy as np
import pytest
import torch

from naics_pipeline.errors import NaicsError
from naics_pipeline.geometry import lorentz
from naics_pipeline.search.nearest import nearest, nearest_to_points
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings


@pytest.fixture(scope="module")
def embeddings(sample_tree: Tree) -> Embeddings:
    tangent = torch.randn(len(sample_tree), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Embeddings(sample_tree.codes, lorentz.exp0(tangent, curvature=0.7).numpy(), 0.7)


def test_nearest_codes_are_those_of_a_full_scan(embeddings: Embeddings) -> None:
    code = str(embeddings.codes[17])
    points = torch.from_numpy(embeddings.points)
    distances = lorentz.distance(points[17], points, curvature=0.7).numpy()
    expected = [position for position in np.argsort(distances) if position != 17][:5]
    found = nearest(embeddings, code, 5)
    assert found["code"].to_list() == embeddings.codes[expected].tolist()
    assert found["distance"].to_numpy() == pytest.approx(distances[expected])
    assert found["rank"].to_list() == [1, 2, 3, 4, 5]


def test_a_level_may_be_asked_for(embeddings: Embeddings) -> None:
    found = nearest(embeddings, "31", 4, level=3)
    assert found["level"].unique().to_list() == [3]
    with pytest.raises(NaicsError, match="7 digits"):
        nearest(embeddings, "31", 4, level=7)


def test_more_than_there_are_gives_all_and_fewer_than_one_is_refused(embeddings: Embeddings) -> None:
    assert len(nearest(embeddings, "31", 10**6)) == len(embeddings.codes) - 1
    with pytest.raises(NaicsError, match="at least one"):
        nearest(embeddings, "31", 0)


def test_a_point_finds_its_own_code_first(embeddings: Embeddings) -> None:
    six = np.flatnonzero(embeddings.level == 6)[:3]
    found = nearest_to_points(embeddings, embeddings.points[six], 2)
    assert found.filter(found["rank"] == 1)["code"].to_list() == embeddings.codes[six].tolist()
    assert found["query"].to_list() == [0, 0, 1, 1, 2, 2]
    assert nearest_to_points(embeddings, embeddings.points[:1], 1, level=None)["code"].item() == embeddings.codes[0]


def test_euclidean_embeddings_are_searched_in_their_own_geometry() -> None:
    flat = Embeddings(np.array(["11", "21", "22"]), np.array([[0.0, 0], [0, 3], [1, 1]]), geometry="euclidean")
    found = nearest(flat, "11", 2)
    assert found["code"].to_list() == ["22", "21"]
    assert found["distance"].to_numpy() == pytest.approx([np.sqrt(2), 3])


@pytest.mark.parametrize("name", ["31-33", "33", " 31 "])
def test_a_merged_sector_goes_by_all_its_names(embeddings: Embeddings, name: str) -> None:
    assert nearest(embeddings, name, 3).equals(nearest(embeddings, "31", 3))


@pytest.mark.parametrize("code", ["999999", "soybeans", "", "3111115"])
def test_an_unknown_code_is_answered_with_codes_that_exist(embeddings: Embeddings, code: str) -> None:
    with pytest.raises(NaicsError, match="Nearest that are: ") as caught:
        nearest(embeddings, code)
    offered = str(caught.value).split("Nearest that are: ")[1].rstrip(".").split(", ")
    assert set(offered) <= set(embeddings.codes.tolist())
    if code == "3111115":
        assert all(other.startswith("311") for other in offered)
