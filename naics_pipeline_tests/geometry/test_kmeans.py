"""k-means of hyperbolic points against a slow version, with its seeds, its repairs and its cost."""

import pytest
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.geometry.kmeans import _repaired, kmeans


def groups(curvature: float = 1.0, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Five groups of eight points, and the group of each."""
    generator = torch.Generator().manual_seed(0)
    # Not far out, where a small step of the tangent vector is a long way.
    centres = 1.5 * torch.cat([torch.eye(4), -torch.eye(4)[:1]]).double()
    group = torch.arange(5).repeat_interleave(8)
    tangents = centres[group] + spread * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    return lorentz.exp0(tangents / curvature**0.5, curvature=curvature), group


def slow(x: torch.Tensor, centroids: torch.Tensor, curvature: float) -> torch.Tensor:
    """Lloyd's algorithm point by point, from these centroids."""
    while True:
        cluster = torch.tensor(
            [int(torch.stack([lorentz.distance(p, c, curvature=curvature) for c in centroids]).argmin()) for p in x]
        )
        moved = torch.stack(
            [
                lorentz.centroid(x[cluster == k], torch.ones(int((cluster == k).sum())).double(), curvature=curvature)
                for k in range(len(centroids))
            ]
        )
        if torch.allclose(moved, centroids, atol=1e-12):
            return cluster
        centroids = moved


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_groups_are_found_whatever_the_curvature(curvature: float) -> None:
    x, group = groups(curvature)
    found = min((kmeans(x, 5, seed=seed, curvature=curvature) for seed in range(5)), key=lambda one: one.inertia)
    assert torch.equal(found.cluster[:, None] == found.cluster, group[:, None] == group)
    assert lorentz.violation(found.centroids, curvature=curvature).max() < 1e-6


def test_it_ends_where_a_slow_version_stays() -> None:
    x, _ = groups(spread=1.5)
    found = kmeans(x, 5, seed=3)
    assert torch.equal(slow(x, found.centroids, 1.0), found.cluster)


def test_more_steps_never_cost_more_and_the_same_seed_repeats() -> None:
    x, _ = groups(spread=2.0)
    costs = [kmeans(x, 8, seed=1, max_steps=steps).inertia for steps in (1, 2, 4, 50)]
    assert costs == sorted(costs, reverse=True)
    assert torch.equal(kmeans(x, 8, seed=1).cluster, kmeans(x, 8, seed=1).cluster)


def test_no_cluster_is_empty_even_of_equal_points() -> None:
    x = groups()[0][:1].repeat(12, 1)
    assert (torch.bincount(kmeans(x, 5, seed=0).cluster, minlength=5) > 0).all()
    cluster = _repaired(torch.tensor([0, 0, 0, 2]), torch.tensor([0.1, 5.0, 0.2, 9.0]), 4)
    # The worst point is the last of its cluster and stays; the next two go.
    assert cluster.tolist() == [0, 1, 3, 2]
    with pytest.raises(ValueError, match="3 points make no 4 clusters"):
        kmeans(x[:3], 4, seed=0)
