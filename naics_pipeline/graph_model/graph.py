"""The taxonomy as a graph of messages: which code hears from which, in what relation, and how loudly."""

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
    relation = tree.relation_id()
    ties = [
        (RELATIONS[0, 1][0], 1.0, PARENT, CHILD),
        (RELATIONS[1, 1][0], settings.sibling_weight, SIBLING, SIBLING),
        (RELATIONS[0, 2][0], settings.grandparent_weight, GRANDPARENT, GRANDCHILD),
        (RELATIONS[0, 3][0], settings.great_grandparent_weight, GREAT_GRANDPARENT, GREAT_GRANDCHILD),
    ]
    loops = np.arange(len(tree))
    edges, roles, weights = [np.stack([loops, loops])], [np.full(len(tree), SELF)], [np.ones(len(tree))]
    for identity, weight, above, below in ties:
        if weight > 0:
            sender, receiver = np.nonzero(relation == identity)
            edges.append(np.stack([sender, receiver]))
            roles.append(np.where(tree.level[sender] <= tree.level[receiver], above, below))
            weights.append(np.full(len(sender), weight))
    return Data(
        num_nodes=len(tree),
        edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
        role=torch.from_numpy(np.concatenate(roles)),
        edge_weight=torch.from_numpy(np.concatenate(weights)),
    )
