"""What the graph model is fitted to, and the gradient of it all in bounded memory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.sampling import Triplets
from naics_pipeline.graph_model.steps import distances_between
from naics_pipeline.taxonomy.tree import Tree

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
    if not at["negatives"].numel():
        return points.new_zeros(())
    others = torch.cat([at["positive"].unsqueeze(-1), at["negatives"]], dim=1)
    distance = lorentz.listed_distance(points, at["anchor"], others, curvature=curvature)
    positive, negative = distance[:, :1], distance[:, 1:]
    margin = adaptive_margin(positive, lorentz.radius(points, curvature=curvature)[at["anchor"]].unsqueeze(-1))
    return torch.relu(positive - negative + margin).mean()


@dataclass(frozen=True)
class TextDistances:
    """The text model's distances between codes in edges of the tree, formed where they are asked for.

    Attributes:
        points: (N, d + 1) float64, text points.
        curvature: c > 0 of their space.
        edge_length: how long an edge of the tree is there.
    """

    points: Tensor
    curvature: float
    edge_length: float

    def between(self, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """(rows, columns), of two lists of indices."""
        distance = distances_between(self.points[rows], self.points[columns], curvature=self.curvature)
        return distance * (1 / self.edge_length)


@dataclass(frozen=True)
class _Block:
    """Some rows of the matrix over all pairs, term by term: what its distances should be, and how much each counts."""

    rows: slice | Tensor
    columns: slice
    target: dict[str, Tensor]
    weight: dict[str, Tensor]


class PairTerms:
    """The two terms over pairs of codes i < j: Σ w (D - target)².

    Stress is the squared error against tree_distance over tree_distance, so that near pairs count; retention the
    squared error against the text model's distances in the same unit (edges), between codes of one sector. Up to
    `pairs_per_step` pairs a step sees all of them, and their constants are kept (16 bytes a pair). Of more pairs each
    step draws some codes anew, as many as have about `pairs_per_step` pairs with all others: the terms and gradients
    that it sees are those of all pairs on average (each pair lies in it as often as any other), and nothing is kept.

    Args:
        kept: (n,) indices of the codes that take part.
        held_out: (N, N) bool, symmetric: pairs that do not.
    """

    def __init__(
        self,
        tree: Tree,
        text: TextDistances,
        kept: np.ndarray,
        device: torch.device,
        *,
        pairs_per_step: int,
        seed: int,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.tree, self.text, self.kept, self.device, self.held_out = tree, text, kept, device, held_out
        self.random = np.random.default_rng([seed, 1])
        n = len(kept)
        self.count = self._count()
        self.sample = None if n * (n - 1) // 2 <= pairs_per_step else min(n, math.ceil(pairs_per_step / (n - 1)))
        starts = range(0, n, _BLOCK)
        self.all = [] if self.sample else [self._upper_block(start) for start in starts]

    def backward(self, points: Tensor, curvature: Tensor, weights: dict[str, float]) -> dict[str, float]:
        """Adds the terms' gradients to those of the leaves `points` and `curvature`; gives the terms' values.

        Block by block of rows: memory stays at one block, and each block's distances stay in the cache.

        Args:
            weights: term → weight, of the terms to compute.
        """
        values = dict.fromkeys(weights, 0.0)
        for block in self._blocks(weights) if weights else ():
            distance = lorentz.pairwise_distance(points[block.rows], points[block.columns], curvature=curvature)
            terms = {name: ((distance - block.target[name]).square() * block.weight[name]).sum() for name in weights}
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            for name, term in terms.items():
                values[name] += float(term.detach())
        return values

    def _blocks(self, terms: Iterable[str]) -> Iterable[_Block]:
        if not self.sample:
            return self.all
        drawn = self.random.choice(len(self.kept), self.sample, replace=False)
        return (self._drawn_block(drawn[start : start + _BLOCK], terms) for start in range(0, len(drawn), _BLOCK))

    def _upper_block(self, start: int) -> _Block:
        rows, columns = np.arange(start, min(start + _BLOCK, len(self.kept))), np.arange(start, len(self.kept))
        counted = rows[:, None] < columns
        here = (slice(start, start + _BLOCK), slice(start, None))
        return _Block(*here, *self._constants(rows, columns, counted, PAIR_TERMS))

    def _drawn_block(self, rows: np.ndarray, terms: Iterable[str]) -> _Block:
        columns = np.arange(len(self.kept))
        target, weight = self._constants(rows, columns, rows[:, None] != columns, terms)
        # Of a pair's two places in the matrix, each is drawn in this share of the steps.
        share = (self.sample or 1) / len(self.kept)
        weight = {name: value / (2 * share) for name, value in weight.items()}
        return _Block(torch.from_numpy(rows).to(self.device), slice(None), target, weight)

    def _constants(
        self, rows: np.ndarray, columns: np.ndarray, counted: np.ndarray, terms: Iterable[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Target and weight of each term, (rows, columns) float32 each, of indices among the kept codes."""
        rows, columns = self.kept[rows], self.kept[columns]
        if self.held_out is not None:
            counted = counted & ~self.held_out[rows][:, columns]
        target, weight = {}, {}
        if "stress" in terms:
            steps = self.tree.tree_distance_of(rows[:, None], columns).astype(np.float32)
            target["stress"] = torch.from_numpy(steps)
            weight["stress"] = torch.from_numpy(counted / np.maximum(steps, 1) / np.float32(self.count["stress"]))
        if "retention" in terms:
            within = counted & (self.tree.sector[rows, None] == self.tree.sector[columns])
            target["retention"] = self.text.between(rows, columns).float()
            weight["retention"] = torch.from_numpy(within / np.float32(self.count["retention"]))
        on_device = partial(Tensor.to, device=self.device)
        return {k: on_device(v) for k, v in target.items()}, {k: on_device(v) for k, v in weight.items()}

    def _count(self) -> dict[str, int]:
        """Pairs that take part in each term, 1 where there are none."""
        sector = self.tree.sector[self.kept]
        of_sector = np.bincount(sector)
        n = len(self.kept)
        pairs, within = n * (n - 1) // 2, int((of_sector * (of_sector - 1) // 2).sum())
        if self.held_out is not None:
            for start in range(0, n, _BLOCK):
                left_out = self.held_out[self.kept[start : start + _BLOCK]][:, self.kept]
                left_out &= np.arange(start, min(start + _BLOCK, n))[:, None] < np.arange(n)
                pairs -= int(np.count_nonzero(left_out))
                within -= int(np.count_nonzero(left_out & (sector[start : start + _BLOCK, None] == sector)))
        return {"stress": max(pairs, 1), "retention": max(within, 1)}
