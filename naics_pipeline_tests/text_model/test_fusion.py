"""Vectors of channels and texts to points."""

from functools import partial

import numpy as np
import pytest
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model, Shares
from naics_pipeline.text_model.fusion import Fusion, MixtureOfExperts, drop_channels
from naics_pipeline.text_model.tokens import CHANNELS
from naics_pipeline_tests.text_model.small import discriminants


def test_experts_match_their_definition() -> None:
    torch.manual_seed(0)
    moe = MixtureOfExperts(6, 8, 5, experts=4, top_k=2, dropout=0.0)
    assert (moe(torch.randn(7, 6))[0] == 0).all()
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(7, 6)
    out, probabilities = moe(x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(7))
    for row in range(7):
        top = probabilities[row].topk(2)
        expected = sum(
            weight / top.values.sum() * moe.experts[int(index)](x[row])
            for weight, index in zip(top.values, top.indices, strict=True)
        )
        torch.testing.assert_close(out[row], expected)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_points_at_the_bound_of_the_radius_are_exact_whatever_the_curvature(curvature: float) -> None:
    fusion = Fusion(8, Model(curvature=curvature, learn_curvature=True, embedding_dim=4, expert_dim=8)).eval()
    torch.nn.init.constant_(fusion.log_text_radius, 6.0)
    points = fusion.place_texts(torch.randn(20, 8))
    torch.testing.assert_close(fusion.radii(points), torch.full((20,), 8 / curvature**0.5), rtol=1e-4, atol=0)
    exact = lorentz.from_spatial(points[:, 1:].double(), curvature=curvature)
    assert lorentz.violation(exact, curvature=curvature).max() < 1e-6
    distances = fusion.distances(points, points)
    distances.sum().backward()
    assert torch.isfinite(fusion.log_curvature.grad)
    assert torch.isfinite(distances).all()


@pytest.mark.parametrize("fusion", ["moe", "linear"])
@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_an_absent_channel_counts_as_its_learned_vector(fusion: str, geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(fusion=fusion, geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    channels = torch.randn(3, 4, 8)
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1, 2] = False
    for parameter in model.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    offset = 0.1 * torch.randn(3, 5)
    before, _ = model(channels, present, offset)
    channels[1, 2] = 99.0
    after, _ = model(channels, present, offset)
    torch.testing.assert_close(before, after)
    after.square().sum().backward()
    assert model.absent.grad[2].abs().sum() > 0
    assert (model.absent.grad[[0, 1, 3]] == 0).all()
    if geometry == "lorentz":
        assert lorentz.violation(after.double(), curvature=float(model.curvature)).max() < 1e-4
        assert after.shape == (3, 5)
    else:
        assert after.shape == (3, 4)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_code_lies_towards_the_channel_with_the_greatest_share(channel: str) -> None:
    torch.manual_seed(0)
    shares = Shares(**{name: 1.0 if name == channel else 1e-3 for name in CHANNELS})
    model = Fusion(8, Model(shares=shares, embedding_dim=4, expert_dim=8)).eval()
    channels = torch.nn.functional.normalize(torch.randn(1, 4, 8), dim=-1)
    code, _ = model(channels, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 5))
    distance = model.distances(code, model.place_texts(channels[0]))
    assert CHANNELS[int(distance.argmin())] == channel


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_of_another_text_the_direction_gives_the_distance_and_its_gradient(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    vectors, others = torch.randn(3, 8), torch.randn(5, 8)
    found = [
        model.text_distances(model.place_texts(vectors), model.text_directions(others)),
        model.distances(model.place_texts(vectors), model.place_texts(others)),
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(distances.sum(), model.log_text_radius)[0] for distances in found]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_distances_are_those_of_the_geometry(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    points, _ = model(torch.randn(80, 4, 8), torch.ones(80, 4, dtype=torch.bool), torch.zeros(80, 5))
    points = points.double()
    found = model.distances(points, points)
    curved = partial(lorentz.distance, curvature=model.curvature)
    reference = {"lorentz": lambda u, v: curved(u[:, None], v[None]), "euclidean": torch.cdist}
    expected = reference[geometry](points, points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [7, 65_536], ids=["blocks of 7", "one block"])
def test_the_space_starts_as_the_cosine_of_discriminant_directions(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naics_pipeline.text_model.fusion._ROWS", rows)
    torch.manual_seed(0)
    code = torch.arange(12).repeat_interleave(5)
    vectors = torch.nn.functional.normalize(torch.randn(12, 16)[code] + torch.randn(60, 16) + 1, dim=-1)
    model = Fusion(16, Model(embedding_dim=4, expert_dim=8)).eval()
    model.start_from(vectors, code)
    channels, present = torch.zeros(60, 4, 16), torch.zeros(60, 4, dtype=torch.bool)
    channels[:, 0], present[:, 0] = vectors, True
    points, _ = model(channels, present, torch.zeros(60, 5))
    torch.testing.assert_close(model.place_texts(vectors), points)
    exact = vectors.double().numpy()
    kept = torch.from_numpy((exact - exact.mean(0)) @ discriminants(exact, code.numpy(), 4))
    kept = torch.nn.functional.normalize(kept, dim=-1)
    found = model.distances(points.double(), points.double())
    assert torch.equal(found.argsort(1)[:, 1:], (-kept @ kept.T).argsort(1)[:, 1:])
    radii = model.radii(points)
    torch.testing.assert_close(radii, radii[0].expand(60), rtol=1e-4, atol=1e-4)


def test_the_space_starts_with_what_tells_codes_apart_rather_than_with_what_varies_most() -> None:
    torch.manual_seed(0)
    code = torch.arange(4).repeat_interleave(100)
    noise = torch.randn(400, 16) * torch.tensor([1.0] * 8 + [0.1] * 8)
    vectors = torch.nn.functional.normalize(noise + torch.nn.functional.one_hot(code + 8, 16), dim=-1)
    model = Fusion(16, Model(embedding_dim=3, expert_dim=8)).eval()
    model.start_from(vectors, code)
    points = model.place_texts(vectors)
    nearest = model.distances(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (code[nearest] == code).float().mean() > 0.9


def test_a_single_code_and_as_many_dimensions_as_the_base_has_are_a_start_as_well() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    model = Fusion(8, Model(embedding_dim=12, expert_dim=8)).eval()
    model.start_from(vectors, torch.zeros(5, dtype=torch.int64))
    assert model.place_texts(vectors).isfinite().all()


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_an_offset_turns_a_code_and_moves_it_in_or_out(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    channels, present = torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    offset = torch.zeros(3, 5)
    offset[1, :4], offset[2, 4] = 5.0, 0.3
    with torch.no_grad():
        plain, moved = model(channels, present, torch.zeros(3, 5))[0], model(channels, present, offset)[0]
    torch.testing.assert_close(moved[0], plain[0])
    radii, others = model.radii(plain), model.radii(moved)
    torch.testing.assert_close(others[1], radii[1])
    assert model.paired_distances(plain, moved)[1] > 1
    assert float(others[2] / radii[2]) == pytest.approx(np.exp(0.3), rel=0.05)


def test_curvature_is_learned_only_when_asked_and_stays_in_bounds() -> None:
    assert not Fusion(8, Model()).log_curvature.requires_grad
    model = Fusion(8, Model(learn_curvature=True, embedding_dim=4, expert_dim=8))
    points, _ = model(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 5))
    model.distances(points, points).sum().backward()
    assert model.log_curvature.grad.abs() > 0
    with torch.no_grad():
        model.log_curvature.fill_(9.0)
    assert model.curvature == 10


def test_channel_dropout_keeps_at_least_one_present_channel() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, True, False, False], [False, True, False, False]]).repeat(500, 1)
    kept = drop_channels(present, 0.5)
    assert (kept <= present).all()
    assert kept.any(-1).all()
    assert 0.5 < kept[::2, 0].float().mean() < 0.8
    assert torch.equal(drop_channels(present, 0.0), present)
