"""What the graph model is fitted to, and the gradient of it all in bounded memory."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.sampling import Triplets
from naics_pipeline.taxonomy.tree import Tree

ROOT_TO_SECTOR = 1.3  # radius of level 2 where an edge of the tree has length 1
_BLOCK = 128
PAIR_TERMS = ("stress", "retention")


def adaptive_margin(positive_distance: Tensor, anchor_radius: Tensor) -> Tensor:
    """m = 1 + 0.5 (1 - tanh(d(a, p) / 4)) + 0.2 (1 - tanh(r_a / 6)), clamped to [0.4, 2], without gradient."""
    margin = 1 + 0.5 * (1 - torch.tanh(positive_distance / 4)) + 0.2 * (1 - torch.tanh(anchor_radius / 6))
    return margin.clamp(0.4, 2).detach()


def triplet_loss(points: Tensor, triplets: Triplets, *, curvature: Tensor) -> Tensor:
    """Mean of max(0, d(a, p) - d(a, n) + m) over all triplets, m being the `adaptive_margin`.

    Args:
        points: (n, d + 1).
        triplets: indices of its rows.
    """
    at = {name: torch.from_numpy(value).to(points.device) for name, value in vars(triplets).items()}
    anchor = points[at["anchor"]]
    positive = lorentz.distance(anchor, points[at["positive"]], curvature=curvature).unsqueeze(-1)
    negative = lorentz.distance(anchor.unsqueeze(1), points[at["negatives"]], curvature=curvature)
    margin = adaptive_margin(positive, lorentz.radius(anchor, curvature=curvature).unsqueeze(-1))
    valid = at["valid"]
    return (torch.relu(positive - negative + margin) * valid).sum() / valid.sum().clamp_min(1)


def radius_loss(points: Tensor, level: Tensor, *, curvature: Tensor) -> Tensor:
    """Squared error of each code's radius against level - 2 + 1.3, every level counting the same."""
    error = (lorentz.radius(points, curvature=curvature) - (level - 2 + ROOT_TO_SECTOR)).square()
    count = torch.bincount(level)
    return (error / count[level]).sum() / (count > 0).sum()


@dataclass(frozen=True)
class Pairs:
    """Constants of the two terms over all pairs i < j: Σ w (D - target)².

    Attributes:
        target: term → (n, n) float32.
        weight: term → (n, n) float32, 0 for i ≥ j.
    """

    target: dict[str, Tensor]
    weight: dict[str, Tensor]

    @classmethod
    def of(cls, tree: Tree, text_distance: np.ndarray, kept: np.ndarray, device: torch.device) -> "Pairs":
        """The constants for the codes `kept` (indices).

        Stress is the squared error against tree_distance over tree_distance, so that near pairs count; retention the
        squared error against the text model's distances in the same unit (edges), between codes of one sector.
        """
        here = np.ix_(kept, kept)
        steps = tree.tree_distance()[here].astype(np.float32)
        above = np.triu(np.ones_like(steps), k=1)
        weight = {"stress": above / np.maximum(steps, 1), "retention": above * (tree.lca_depth()[here] > 0)}
        count = {"stress": max(above.sum(), 1), "retention": max(weight["retention"].sum(), 1)}
        target = {"stress": steps, "retention": text_distance[here].astype(np.float32)}
        return cls(
            target={name: torch.from_numpy(target[name]).to(device) for name in PAIR_TERMS},
            weight={name: torch.from_numpy(weight[name] / count[name]).to(device) for name in PAIR_TERMS},
        )

    def backward(self, points: Tensor, curvature: Tensor, weights: dict[str, float]) -> dict[str, float]:
        """Adds the terms' gradients to those of the leaves `points` and `curvature`; gives the terms' values.

        Block by block of rows: memory stays at one block, and each block's distances stay in the cache.

        Args:
            weights: term → weight, of the terms to compute.
        """
        values = dict.fromkeys(weights, 0.0)
        for start in range(0, len(points), _BLOCK) if weights else ():
            here = (slice(start, start + _BLOCK), slice(start, None))
            distance = lorentz.pairwise_distance(points[here[0]], points[here[1]], curvature=curvature)
            terms = {
                name: ((distance - self.target[name][here]).square() * self.weight[name][here]).sum()
                for name in weights
            }
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            for name, term in terms.items():
                values[name] += float(term.detach())
        return values
