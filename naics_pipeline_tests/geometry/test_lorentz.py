"""The Lorentz model against a trusted library, its own axioms, and the radii at which float32 usually fails."""

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naics_pipeline.geometry import lorentz

CURVATURES = [0.1, 1.0, 10.0]


def tangents(seed: int, n: int, d: int, length: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (v / v.norm(dim=-1, keepdim=True) * length).to(dtype)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("seed", range(3))
def test_distance_and_maps_agree_with_geoopt(curvature: float, seed: int) -> None:
    # geoopt's k is 1 / c.
    oracle = geoopt.Lorentz(k=torch.tensor(1 / curvature, dtype=torch.float64))
    v = tangents(seed, 6, 5, 1.7) * torch.rand(6, 1, dtype=torch.float64)
    x = lorentz.exp0(v, curvature=curvature)
    torch.testing.assert_close(x, oracle.expmap0(torch.cat([torch.zeros(6, 1), v], dim=-1).double()))
    torch.testing.assert_close(
        lorentz.distance(x[:3], x[3:], curvature=curvature), oracle.dist(x[:3], x[3:]), rtol=1e-6, atol=1e-6
    )


@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.floats(0, 6), min_size=3, max_size=3),
    curvature=st.sampled_from(CURVATURES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60, deadline=None)
def test_distance_is_a_metric(seed: int, lengths: list[float], curvature: float, dtype: torch.dtype) -> None:
    v = tangents(seed, 3, 4, 1.0, dtype) * torch.tensor(lengths, dtype=dtype)[:, None] / curvature**0.5
    x = lorentz.exp0(v, curvature=curvature)
    d = lorentz.distance(x[:, None], x[None], curvature=curvature)
    slack = 1e-4 if dtype is torch.float32 else 1e-9
    assert torch.equal(d.diagonal(), torch.zeros(3, dtype=dtype))
    torch.testing.assert_close(d, d.T)
    assert (d >= 0).all()
    assert d[0, 2] <= d[0, 1] + d[1, 2] + slack


@given(seed=st.integers(0, 10_000), length=st.floats(0, 8), curvature=st.sampled_from(CURVATURES))
@settings(max_examples=40, deadline=None)
def test_log_undoes_exp_and_length_is_radius(seed: int, length: float, curvature: float) -> None:
    v = tangents(seed, 4, 3, length) / curvature**0.5
    x = lorentz.exp0(v, curvature=curvature)
    torch.testing.assert_close(lorentz.log0(x, curvature=curvature), v)
    torch.testing.assert_close(lorentz.radius(x, curvature=curvature), v.norm(dim=-1))


@pytest.mark.parametrize("length", [6.0, 8.0, 12.0])
def test_float32_distance_is_right_far_out(length: float) -> None:
    v = tangents(0, 200, 64, length)
    v[1::2] = v[::2] + tangents(1, 100, 64, 0.05)
    exact = lorentz.exp0(v)
    single = exact.float()
    expected = lorentz.distance(exact[::2], exact[1::2])
    torch.testing.assert_close(lorentz.distance(single[::2], single[1::2]).double(), expected, rtol=2e-3, atol=1e-4)


def test_gradient_is_finite_at_identical_points_and_at_the_origin() -> None:
    v = torch.zeros(2, 8, requires_grad=True)
    x = lorentz.exp0(v)
    (lorentz.distance(x[0], x[1]) + lorentz.radius(x).sum() + lorentz.bound_radius(v, 8.0).sum()).backward()
    assert torch.isfinite(v.grad).all()
    w = tangents(3, 1, 8, 2.0).repeat(2, 1).requires_grad_()
    y = lorentz.exp0(w)
    lorentz.pairwise_distance(y, y).sum().backward()
    assert torch.isfinite(w.grad).all()


def test_gradient_reaches_the_curvature() -> None:
    c = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    v = tangents(0, 4, 3, 1.0)

    def total(curvature: torch.Tensor) -> torch.Tensor:
        return lorentz.pairwise_distance(*[lorentz.exp0(v, curvature=curvature)] * 2, curvature=curvature).sum()

    assert torch.autograd.gradcheck(total, c)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_pairwise_is_distance_of_every_pair(curvature: float) -> None:
    x = lorentz.exp0(tangents(0, 7, 5, 2.0), curvature=curvature)
    y = lorentz.exp0(tangents(1, 4, 5, 3.0), curvature=curvature)
    expected = lorentz.distance(x[:, None], y[None], curvature=curvature)
    torch.testing.assert_close(lorentz.pairwise_distance(x, y, curvature=curvature), expected)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_on_one_sphere_the_angle_gives_the_distance(curvature: float, kind: torch.dtype) -> None:
    v = tangents(0, 9, 5, 1.0)
    direction = v / lorentz.norm(v)
    x = lorentz.exp0(3 * direction / curvature**0.5, curvature=curvature)
    found = lorentz.sphere_distance(x[:4].to(kind), direction[4:].to(kind), curvature=curvature)
    torch.testing.assert_close(
        found.double(), lorentz.pairwise_distance(x[:4], x[4:], curvature=curvature), rtol=1e-5, atol=0
    )
    itself = lorentz.sphere_distance(x.to(kind), direction.to(kind), curvature=curvature).diagonal()
    assert itself.max() < 0.01 / curvature**0.5


@pytest.mark.parametrize("curvature", CURVATURES)
def test_listed_distances_are_those_of_the_pairs_with_their_gradients(curvature: float) -> None:
    v = tangents(0, 7, 5, 2.0).requires_grad_()
    rows, others = torch.tensor([0, 3, 3]), torch.tensor([[1, 2], [3, 4], [5, 0]])

    def gradient(distances: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((distances * torch.arange(6.0).reshape(3, 2)).sum(), v, retain_graph=True)[0]

    x = lorentz.exp0(v, curvature=curvature)
    found = lorentz.listed_distance(x, rows, others, curvature=curvature)
    expected = lorentz.distance(x[rows][:, None], x[others], curvature=curvature)
    torch.testing.assert_close(found, expected)
    assert found[1, 0] == 0
    torch.testing.assert_close(gradient(found), gradient(expected))
    assert lorentz.listed_distance(x.float(), rows, others).dtype == torch.float32


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_distance_of_an_inner_product_is_that_of_its_points(curvature: float) -> None:
    x = lorentz.exp0(tangents(0, 7, 5, 2.0), curvature=curvature)
    y = lorentz.exp0(tangents(1, 7, 5, 3.0), curvature=curvature)
    found = lorentz.distance_of_inner(lorentz.inner(x, y), curvature=curvature)
    torch.testing.assert_close(found, lorentz.distance(x, y, curvature=curvature))
    itself = lorentz.distance_of_inner(lorentz.inner(x, x), curvature=curvature)
    torch.testing.assert_close(itself, torch.zeros_like(itself), atol=1e-5, rtol=0)


def test_centroid_is_on_the_manifold_and_minimises_squared_lorentzian_distance() -> None:
    x = lorentz.exp0(tangents(0, 5, 3, 1.5), curvature=2.0)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 1.0], dtype=torch.float64)
    centre = lorentz.centroid(x, weights, curvature=2.0)
    assert lorentz.violation(centre, curvature=2.0) < 1e-12

    def cost(point: torch.Tensor) -> torch.Tensor:
        return (weights * (-1 / 2.0 - lorentz.inner(x, point))).sum()

    for step in tangents(4, 20, 3, 1e-3):
        moved = lorentz.exp0(lorentz.log0(centre, curvature=2.0) + step, curvature=2.0)
        assert cost(moved) >= cost(centre)


def test_radius_is_bounded_smoothly() -> None:
    v = tangents(0, 4, 3, 1.0) * torch.tensor([[0.01], [1.0], [8.0], [1e4]], dtype=torch.float64)
    lengths = lorentz.bound_radius(v, 8.0).norm(dim=-1)
    assert lengths[0] == pytest.approx(0.01, rel=1e-4)
    assert (lengths.diff() > 0).all()
    assert lengths[-1] <= 8.0
    # In units of 1/√c.
    torch.testing.assert_close(
        lorentz.bound_radius(v / 10**0.5, 8.0, curvature=10.0).norm(dim=-1), lengths / 10**0.5, rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("value", [0.05, 0.1, 1.0, 10.0, 12.0])
@pytest.mark.parametrize("target", [0.01, 1.0, 20.0])
def test_a_bounded_value_can_always_come_back(value: float, target: float) -> None:
    x = torch.tensor(value, requires_grad=True)
    bounded = lorentz.bounded(x, 0.1, 10.0)
    assert bounded.item() == pytest.approx(min(max(value, 0.1), 10.0))
    (bounded - target).square().backward()
    outwards = (value <= 0.1 and target < 0.1) or (value >= 10 and target > 10)
    assert x.grad.item() == pytest.approx(0 if outwards else 2 * (bounded.item() - target), rel=1e-5)


def test_poincare_keeps_distances() -> None:
    x = lorentz.exp0(tangents(0, 2, 3, 1.5))
    u, v = lorentz.to_poincare(x)
    gap = ((u - v) ** 2).sum() / ((1 - u @ u) * (1 - v @ v))
    assert torch.acosh(1 + 2 * gap) == pytest.approx(float(lorentz.distance(x[0], x[1])))
