"""How near a text lies to the nearest of the texts below each code: its title, training entries, sentences."""

from typing import Self

import numpy as np

from naics_pipeline.scorers.embedding import query_distances
from naics_pipeline.scorers.scorer import owners, refuse_another_space
from naics_pipeline.text_model.embeddings import Embeddings

# Distances that exist at once, each with half a dozen intermediate results of its size: about 150 MB.
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
        return self

    def nearest(self, texts: Embeddings, columns: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
        """For each text and the code in its column: rows of the fitted texts with their distances, nearest first.

        Args:
            columns: (n,) a code for each text.
            count: at most so many.
        """
        codes, ends = self._codes, np.append(self._first[1:], len(self._points))
        found = []
        for point, column in zip(texts.points, columns.tolist(), strict=True):
            block = slice(self._first[column], ends[column])
            distances = query_distances(point[None], self._points[block], codes.curvature, codes.geometry)[0]
            order = np.argsort(distances, kind="stable")[:count]
            rows = self._rows[block][order]
            found.append([(int(r), float(d)) for r, d in zip(rows, distances[order], strict=True) if r >= 0])
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
            distances = query_distances(texts.points[block], self._points, codes.curvature, codes.geometry)
            np.minimum.reduceat(distances, self._first, axis=1, out=found[block])
        return -found
