"""The control: what averaging over neighbours gives without any learning."""

import numpy as np
import torch
from torch_geometric.utils import scatter

from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings


def smooth(embeddings: Embeddings, tree: Tree, rounds: int) -> np.ndarray:
    """Each point replaced by the centroid of itself, its parent and its children, `rounds` times; nothing is learned.

    Args:
        embeddings: in the order of the tree's codes.
    Returns: (N, d + 1) or, euclidean, (N, d) float64, in the space of the embeddings.
    """
    points = torch.from_numpy(embeddings.points)
    child = torch.from_numpy(np.flatnonzero(tree.parent >= 0))
    parent = torch.from_numpy(tree.parent[tree.parent >= 0].astype(np.int64))
    loops = torch.arange(len(tree))
    sender, receiver = torch.cat([loops, child, parent]), torch.cat([loops, parent, child])
    for _ in range(rounds):
        if embeddings.geometry == "euclidean":
            points = scatter(points[sender], receiver, dim=0, dim_size=len(tree), reduce="mean")
            continue
        heard = scatter(points[sender], receiver, dim=0, dim_size=len(tree), reduce="sum")
        points = lorentz.project(heard, curvature=embeddings.curvature)
    return points.numpy()
