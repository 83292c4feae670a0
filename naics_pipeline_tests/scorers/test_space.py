"""Read-outs of a space of codes, places and texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers.mixture import Mixture
from naics_pipeline.scorers.space import SpaceReadouts, positions, with_mixed
from naics_pipeline.text_model.embeddings import Embeddings

CODES = np.array(["11", "111120", "111110", "221110"])


def space(codes: np.ndarray, seed: int) -> Embeddings:
    tangent = torch.randn(len(codes), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Embeddings(codes, lorentz.exp0(tangent).numpy())


def test_only_six_digit_codes_are_candidates_and_places_of_others_are_passed_over() -> None:
    codes = space(CODES, 0)
    # Nearest to the texts of all, and yet of no candidate.
    texts = space(CODES[1:], 1)
    places = Embeddings(np.array(["11", "111110", "999999"]), np.concatenate([texts.points[:1], codes.points[[2, 0]]]))
    found = SpaceReadouts(codes, places).distances(texts)
    assert SpaceReadouts(codes).candidates.tolist() == CODES[1:].tolist()
    assert found["nearest_entry"] == pytest.approx(found["code"])
    assert set(SpaceReadouts(codes).distances(texts)) == {"code"}


def test_a_mixture_of_one_read_out_ranks_as_it_does() -> None:
    codes = space(CODES, 0)
    distances = SpaceReadouts(codes, space(CODES[1:], 2)).distances(space(CODES[1:], 3))
    for weight, name in ((1.0, "code"), (0.0, "nearest_entry")):
        found = with_mixed(distances, Mixture(weight=weight))["mixed"]
        assert np.argsort(found).tolist() == np.argsort(distances[name]).tolist()


def test_points_of_another_space_are_refused() -> None:
    codes = space(CODES, 0)
    with pytest.raises(ModelError, match="places lie in another space"):
        SpaceReadouts(codes, replace(codes, curvature=2.0))
    with pytest.raises(ModelError, match="queries lie in another space"):
        SpaceReadouts(codes).distances(replace(codes, geometry="euclidean"))


def test_positions_hold_whatever_the_order_and_name_what_is_missing() -> None:
    assert positions(CODES[1:], np.array(["221110", "111120"])).tolist() == [2, 0]
    with pytest.raises(ModelError, match="333333"):
        positions(CODES[1:], np.array(["333333"]))
