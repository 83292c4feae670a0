"""What a loss sees of a step: points, pairs and queries, the tree they are held against, and the learned scalars."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from naics_pipeline.settings import Objective
from naics_pipeline.taxonomy.tree import Tree


class Space(Protocol):
    """Distances of the geometry that points lie in."""

    def distances(self, u: Tensor, v: Tensor) -> Tensor:
        """(n, m), between all rows of u (n, ·) and of v (m, ·)."""

    def text_distances(self, u: Tensor, direction: Tensor) -> Tensor:
        """(n, m), of texts u (n, ·) to others in these directions (m, d): all have one radius.

        Faster, and less exact where they are small.
        """

    def paired_distances(self, u: Tensor, v: Tensor) -> Tensor:
        """(n,), of each row of u to the same row of v."""

    def radii(self, points: Tensor) -> Tensor:
        """(n,), distances from the origin."""


class TreeTensors(nn.Module):
    """The taxonomy of N codes as constants on the device.

    Attributes:
        tree_distance: (N, N) uint8, edges between two codes.
        distance: (N, N) half, `Tree.distance`.
        level: (N,) int64, number of digits.
        leaves: (L,) indices of the deepest codes that training knows; leaf_of: (N,) position among them, -1 for none.
        trained: (T,) indices of the codes that training knows.
        held_out: (N, N) bool, pairs of codes that training does not see.
    """

    tree_distance: Tensor
    distance: Tensor
    level: Tensor
    leaves: Tensor
    leaf_of: Tensor
    trained: Tensor
    held_out: Tensor

    def __init__(self, tree: Tree, held_out: np.ndarray, left_out: np.ndarray) -> None:
        super().__init__()
        leaves = np.flatnonzero((tree.level == tree.level.max()) & ~left_out)
        leaf_of = np.full(len(tree), -1)
        leaf_of[leaves] = np.arange(len(leaves))
        constants = {
            # Whole numbers up to 10 and their halves: exact in the small types.
            "tree_distance": torch.from_numpy(tree.tree_distance()),
            "distance": torch.from_numpy(tree.distance()).half(),
            "level": torch.from_numpy(tree.level.astype(np.int64)),
            "leaves": torch.from_numpy(leaves),
            "leaf_of": torch.from_numpy(leaf_of),
            "trained": torch.from_numpy(np.flatnonzero(~left_out)),
            "held_out": torch.from_numpy(held_out),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def leaves_below(self, code: Tensor) -> Tensor:
        """(Q, L) bool: which leaves are a code, or lie below it; for (Q,) indices."""
        depth = self.level[self.leaves] - self.level[code].unsqueeze(-1)
        return self.tree_distance[code][:, self.leaves] == depth


@dataclass(frozen=True)
class CodePairs:
    """B pairs of codes with K negatives each, as indices of the N codes.

    Attributes:
        anchor, positive: (B,).
        negative: (B, K).
        codes: (C,) sorted, all that are named.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Queries:
    """Q texts, each of a known code.

    Attributes:
        points: (Q, ·).
        code: (Q,) index of the code that each belongs to.
        under: (Q,) index of the code that Census warns not to confuse it with, -1 for none.
        own: (Q, ·) the code's point as it is without the text; None: as it is.
        tuned, base: (Q, width) what the adapter and the base say of them; None where nothing was read afresh.
    """

    points: Tensor
    code: Tensor
    under: Tensor
    own: Tensor | None = None
    tuned: Tensor | None = None
    base: Tensor | None = None


@dataclass(frozen=True)
class Neighbours:
    """M texts as places of the space, for Q queries that may themselves be among them.

    Attributes:
        direction: (M, d) unit vectors: all texts have one radius.
        code: (M,) index of the code that each speaks of, -1 where it does not count.
        left_row, left_of: (R,) texts that a query is, or is made of, and the query: it does not see them.
    """

    direction: Tensor
    code: Tensor
    left_row: Tensor
    left_of: Tensor


@dataclass(frozen=True)
class Suspects:
    """Codes that may be false negatives of one another: those of one cluster.

    Attributes:
        cluster: (N,) of each code.
        mode: eliminate, attract or hybrid, `curriculum.stage.FalseNegatives`.
    """

    cluster: Tensor
    mode: str

    def of(self, anchor: Tensor, others: Tensor) -> Tensor:
        """(B, K) bool: which of the codes (B, K) or (K,) lie in the cluster of their anchor (B,)."""
        return self.cluster[others] == self.cluster[anchor].unsqueeze(-1)


@dataclass(frozen=True)
class View:
    """One step, or one validation.

    Attributes:
        space, tree: where points lie, and what is known of their codes.
        points: (N, ·) of all codes.
        gate: (N, E) probabilities of the experts; None where there are none, or where codes as such are not measured.
        pairs: None where there are none.
        queries: None where there are none.
        rows, counted: (C,) codes and (C, N) bool, the pairs whose distances are held against the tree's.
        spread: (T,) codes whose radii and experts are held in balance; None where only unseen pairs are measured.
        unseen: (N, N) bool, pairs of a query's code and another that have no part; None: all have.
        suspects: where the stage looks for false negatives; else None.
        neighbours: the texts that the queries lie among; None where their places are not learned.
        chosen: (E,) how often earlier batches of the same optimiser step chose each expert; None before the first.
    """

    space: Space
    tree: TreeTensors
    points: Tensor
    gate: Tensor | None
    pairs: CodePairs | None
    queries: Queries | None
    rows: Tensor
    counted: Tensor
    spread: Tensor | None
    unseen: Tensor | None
    suspects: Suspects | None = None
    chosen: Tensor | None = None
    neighbours: Neighbours | None = None


class Scalars(Protocol):
    """What is set or learned once for all losses."""

    @property
    def weights(self) -> Objective:
        """As set: kinds and margins among them."""

    @property
    def scale(self) -> Tensor:
        """s > 0, length of an edge of the tree in the space."""

    @property
    def temperature(self) -> Tensor:
        """τ > 0 of the contrastive term."""

    @property
    def query_temperature(self) -> Tensor:
        """τ > 0 of the query term."""

    @property
    def top_k(self) -> int:
        """Experts that the gate gives each row."""


Loss = Callable[[View, Scalars], Tensor | None]
"""A term of the objective, unweighted; None where the view has nothing for it."""
