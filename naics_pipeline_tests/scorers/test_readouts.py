"""The nearest place of each code against a loop, where codes have many places, one or none."""

import numpy as np
import pytest
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers import readouts
from naics_pipeline.scorers.readouts import Places, query_distances


def points(seed: int, n: int, curvature: float = 1.0) -> np.ndarray:
    tangent = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lorentz.exp0(tangent, curvature=curvature).numpy()


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_one_place_on_each_codes_own_point_reads_as_the_code_does(geometry: str, curvature: float) -> None:
    queries, codes = points(0, 7, curvature), points(1, 5, curvature)
    order = np.array([3, 0, 4, 1, 2])
    found = Places(codes[order], order, codes).nearest(queries, curvature, geometry)
    assert found == pytest.approx(query_distances(queries, codes, curvature, geometry))


@pytest.mark.parametrize("cells", [1, 40, 10**6])
def test_against_a_loop_in_blocks_of_any_size(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readouts, "_CELLS", cells)
    queries, codes, places = points(0, 9), points(1, 4), points(2, 11)
    owner = np.array([2, 0, 0, -1, 2, 3, 2, -1, 0, 3, 3])
    found = Places(places, owner, codes).nearest(queries, 1.0, "lorentz")
    for code in range(4):
        own = places[owner == code] if code != 1 else codes[[1]]
        assert found[:, code] == pytest.approx(query_distances(queries, own, 1.0, "lorentz").min(axis=1))


def test_without_any_place_the_codes_points_are_the_only_ones() -> None:
    queries, codes = points(0, 3), points(1, 4)
    nothing = Places(np.empty((0, 4)), np.empty(0, dtype=int), codes)
    assert nothing.nearest(queries, 1.0, "lorentz") == pytest.approx(query_distances(queries, codes, 1.0, "lorentz"))
    assert nothing.nearest(queries[:0], 1.0, "lorentz").shape == (0, 4)
