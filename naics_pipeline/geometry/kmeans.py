"""k-means in hyperbolic space: clusters of points of the hyperboloid by their Lorentz centroids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz


@dataclass(frozen=True)
class Clustering:
    """Clusters of n points.

    Attributes:
        cluster: (n,) int64 of each point.
        centroids: (k, d + 1).
        inertia: mean of -⟨x, centroid⟩ c - 1 ≥ 0, which every step lowers.
        steps: assignments until none changed, or the limit.
    """

    cluster: Tensor
    centroids: Tensor
    inertia: float
    steps: int


def kmeans(x: Tensor, k: int, *, seed: int, curvature: float = 1.0, max_steps: int = 50) -> Clustering:
    """Lloyd's algorithm with Lorentz centroids, which are exact for the cost -⟨x, μ⟩; Law et al. (2019), section 3.

    Seeding as in Arthur & Vassilvitskii (2007). A cluster that loses all its points takes the point that lies worst.

    Args:
        x: points, shape (n, d + 1), n ≥ k.
        k: number of clusters, none of them empty in the end.
        seed: of the first centroids.
    Raises:
        ValueError: fewer points than clusters.
    """
    if len(x) < k:
        raise ValueError(f"{len(x)} points make no {k} clusters")
    x = x.double()
    flipped = torch.cat([-x[:, :1], x[:, 1:]], dim=1)
    centroids = x[_first(x, flipped, k, curvature, torch.Generator().manual_seed(seed))]
    cluster = torch.full((len(x),), -1, device=x.device)
    steps = 0
    while steps < max_steps:
        steps, before = steps + 1, cluster
        cost, cluster = _cost(flipped, centroids, curvature).min(dim=1)
        cluster = _repaired(cluster, cost, k)
        if torch.equal(cluster, before):
            break
        sums = x.new_zeros(k, x.shape[1]).index_add(0, cluster, x)
        centroids = lorentz.project(sums, curvature=curvature)
    cost = _cost(flipped, centroids, curvature).gather(1, cluster.unsqueeze(1))
    return Clustering(cluster, centroids, float(cost.mean()), steps)


def _cost(flipped: Tensor, centroids: Tensor, curvature: float) -> Tensor:
    """(n, k) -c⟨x, μ⟩ - 1: 0 where both are one point, and rising with their distance."""
    return -curvature * (flipped @ centroids.T) - 1


def _first(x: Tensor, flipped: Tensor, k: int, curvature: float, generator: torch.Generator) -> Tensor:
    """(k,) indices of points, each new one likelier the farther it lies from those before."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    cost = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for _ in range(k - 1):
        cost = torch.minimum(cost, _cost(flipped, x[chosen[-1:]], curvature).squeeze(1).clamp_min(0))
        cost[chosen[-1]] = 0
        weight = (
            cost.cpu()
            if bool(cost.sum() > 0)
            else torch.ones(len(x), dtype=x.dtype).index_fill(0, torch.tensor(chosen), 0)
        )
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
    return torch.tensor(chosen, device=x.device)


def _repaired(cluster: Tensor, cost: Tensor, k: int) -> Tensor:
    """Every cluster has a point: an empty one gets the worst of those that are not the last of their own."""
    count = torch.bincount(cluster, minlength=k)
    empty = (count == 0).nonzero().flatten().tolist()
    if not empty:
        return cluster
    cluster = cluster.clone()
    worst = iter(cost.argsort(descending=True).tolist())
    for wanting in empty:
        point = next(point for point in worst if count[cluster[point]] > 1)
        count[cluster[point]] -= 1
        count[wanting] += 1
        cluster[point] = wanting
    return cluster
