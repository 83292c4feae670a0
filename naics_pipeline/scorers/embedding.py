"""How near a text's point lies to each code's own point."""

from typing import Self

import numpy as np
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers.scorer import refuse_another_space
from naics_pipeline.text_model.embeddings import Embeddings


class EmbeddingScorer:
    """The distance from text to code, negated. The text model has placed the codes: further texts change nothing."""

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        self._codes = codes
        return self

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float64.

        Raises:
            ModelError: the texts are points of another space.
        """
        codes = self._codes
        refuse_another_space(texts, codes, "queries")
        return -query_distances(texts.points, codes.points, codes.curvature, codes.geometry)


def query_distances(queries: np.ndarray, codes: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
    """Distance of each query's point to each code's, (Q, d + 1) and (L, d + 1) to (Q, L) float64.

    The geometry is lorentz, euclidean, or cosine: one minus the product of vectors of length 1.
    """
    if geometry == "cosine":
        return 1 - (queries @ codes.T).astype(np.float64)
    u, v = (torch.from_numpy(np.array(points, dtype=np.float64)) for points in (queries, codes))
    if geometry == "euclidean":
        return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return lorentz.pairwise_distance(u, v, curvature=float(curvature)).numpy()
