"""How near a text lies to the nearest of the texts below each code: its title, training entries, sentences."""

from typing import Self

import numpy as np
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers.embedding import query_distances
from naics_pipeline.scorers.scorer import owners, refuse_another_space
from naics_pipeline.text_model.embeddings import Embeddings

# Distances that exist at once: 24 MB, and in the other geometries up to six times that.
_CELLS = 3_000_000


class NearestEntryScorer:
    """The distance to the nearest text of each code, negated; a code without texts is read by its own point."""

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Groups the texts by code, so that the nearest of each code is one pass over them.

        Raises:
            ModelError: the texts are points of another space than the codes.
        """
        refuse_another_space(texts, codes, "places")
        owner = owners(texts, codes)
        bare = np.setdiff1d(np.arange(len(codes.codes)), owner)
        points = np.concatenate([texts.points, codes.points[bare]])
        rows = np.concatenate([np.arange(len(texts.codes)), np.full(len(bare), -1)])
        owner = np.concatenate([owner, bare])
        order = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
        self._codes, self._points = codes, points[order]
        self._rows = rows[order]
        self._first = np.searchsorted(owner[order], np.arange(len(codes.codes)))
        # The inner product of two points is the plain one with the time coordinate of either turned round.
        turned = self._points * np.where(np.arange(self._points.shape[1]) == 0, -1, 1)
        self._turned = torch.from_numpy(turned).double().T if codes.geometry == "lorentz" else None
        return self

    def nearest(self, point: np.ndarray, columns: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
        """For each of some codes the rows of its fitted texts with their distances, nearest first.

        Args:
            point: (d + 1,) of one text.
            columns: (k,) codes.
            count: at most so many of each.
        """
        codes, ends = self._codes, np.append(self._first[1:], len(self._points))
        blocks = [np.arange(self._first[column], ends[column]) for column in columns]
        points = self._points[np.concatenate(blocks)]
        distances = query_distances(point[None], points, codes.curvature, codes.geometry)[0]
        found = []
        for block, of_block in zip(blocks, np.split(distances, np.cumsum([*map(len, blocks)])[:-1]), strict=True):
            order = np.argsort(of_block, kind="stable")[:count]
            rows = self._rows[block][order]
            found.append([(int(r), float(d)) for r, d in zip(rows, of_block[order], strict=True) if r >= 0])
        return found

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) float64.

        Raises:
            ModelError: the texts are points of another space.
        """
        codes = self._codes
        refuse_another_space(texts, codes, "queries")
        found = np.empty((len(texts.codes), len(codes.codes)))
        size = max(1, _CELLS // max(1, len(self._points)))
        for start in range(0, len(found), size):
            block = slice(start, start + size)
            found[block] = self._least(texts.points[block])
        return -found

    def _least(self, points: np.ndarray) -> np.ndarray:
        codes = self._codes
        if self._turned is None:
            distances = query_distances(points, self._points, codes.curvature, codes.geometry)
            return np.asarray(np.minimum.reduceat(distances, self._first, axis=1))
        # The distance is formed of the greatest product of each code alone, not of all.
        products = (torch.from_numpy(points).double() @ self._turned).numpy()
        greatest = torch.from_numpy(np.maximum.reduceat(products, self._first, axis=1))
        return lorentz.distance_of_inner(greatest, curvature=codes.curvature).numpy()
