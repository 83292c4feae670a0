"""The taxonomy as a graph of messages: which code hears from which, in what relation, and how loudly."""

from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Data

from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import RELATIONS, Tree

SELF, PARENT, CHILD, SIBLING, GRANDPARENT, GRANDCHILD, GREAT_GRANDPARENT, GREAT_GRANDCHILD = range(8)
ROLES = 8


def build_graph(tree: Tree, settings: Graph) -> Data:
    """Messages between codes, both ways along every relation, and from each code to itself.

    Args:
        settings: weights of the relations; one of weight 0 sends nothing. Tree edges and self-loops weigh 1.
    Returns: num_nodes N; edge_index (2, E) int64, sender first; role (E,) int64, what the sender is to the receiver;
        edge_weight (E,) float64.
    """
    ties = [
        (RELATIONS[0, 1][0], 1.0, PARENT, CHILD),
        (RELATIONS[1, 1][0], settings.sibling_weight, SIBLING, SIBLING),
        (RELATIONS[0, 2][0], settings.grandparent_weight, GRANDPARENT, GRANDCHILD),
        (RELATIONS[0, 3][0], settings.great_grandparent_weight, GREAT_GRANDPARENT, GREAT_GRANDCHILD),
    ]
    pairs = _pairs(tree, [identity for identity, *_ in ties])
    loops = np.arange(len(tree))
    edges, roles, weights = [np.stack([loops, loops])], [np.full(len(tree), SELF)], [np.ones(len(tree))]
    for identity, weight, above, below in ties:
        if weight > 0:
            sender, receiver = pairs[identity]
            edges.append(np.stack([sender, receiver]))
            roles.append(np.where(tree.level[sender] <= tree.level[receiver], above, below))
            weights.append(np.full(len(sender), weight))
    return Data(
        num_nodes=len(tree),
        edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
        role=torch.from_numpy(np.concatenate(roles)),
        edge_weight=torch.from_numpy(np.concatenate(weights)),
    )


def _pairs(tree: Tree, identities: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Relation → indices of all ordered pairs of codes that stand in it."""
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {identity: [] for identity in identities}
    every = np.arange(len(tree))
    for rows in tree.row_blocks():
        relation = tree.relation_id_of(rows[:, None], every)
        for identity, blocks in found.items():
            here, other = np.nonzero(relation == identity)
            blocks.append((rows[here], other))
    return {
        identity: (np.concatenate([first for first, _ in blocks]), np.concatenate([second for _, second in blocks]))
        for identity, blocks in found.items()
    }
