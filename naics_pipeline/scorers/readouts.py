"""How far a text's point lies from each code of a space: from the code's own point, or from the nearest of its places.

Places are texts that belong to a code (its title, its training entries, sentences of its description) as points of the
same space. How both distances become one score is the business of `mixture.py`.
"""

import numpy as np
import torch

from naics_pipeline.geometry import lorentz

# Distances that exist at once, each with half a dozen intermediate results of its size: about 150 MB.
_CELLS = 3_000_000


def query_distances(queries: np.ndarray, codes: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
    """Distance of each query's point to each code's, (Q, d + 1) and (L, d + 1) to (Q, L) float64."""
    u, v = (torch.from_numpy(np.array(points, dtype=np.float64)) for points in (queries, codes))
    if geometry == "euclidean":
        return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return lorentz.pairwise_distance(u, v, curvature=float(curvature)).numpy()


class Places:
    """Points that belong to codes, grouped by code, so that the nearest of each code is one pass over them.

    Args:
        points: (P, d + 1) in the space of the codes.
        owner: (P,) position of each place's code among `codes`; -1 leaves a place out.
        codes: (L, d + 1) the codes' own points: where a code has no place, its point is its only one.
    """

    def __init__(self, points: np.ndarray, owner: np.ndarray, codes: np.ndarray) -> None:
        bare = np.setdiff1d(np.arange(len(codes)), owner)
        points, owner = np.concatenate([points, codes[bare]]), np.concatenate([owner, bare])
        order = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
        self.points = points[order]
        self.first = np.searchsorted(owner[order], np.arange(len(codes)))

    def nearest(self, queries: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
        """(Q, L) distance of each query to the nearest place of each code."""
        found = np.empty((len(queries), len(self.first)))
        size = max(1, _CELLS // max(1, len(self.points)))
        for start in range(0, len(queries), size):
            block = slice(start, start + size)
            distances = query_distances(queries[block], self.points, curvature, geometry)
            np.minimum.reduceat(distances, self.first, axis=1, out=found[block])
        return found
