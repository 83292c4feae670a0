"""Exact search among embedded codes: a few thousand points need no approximate index."""

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.scorers.embedding import query_distances
from naics_pipeline.taxonomy.tree import MERGED_SECTORS
from naics_pipeline.text_model.embeddings import Embeddings

_SUGGESTIONS = 5


def nearest(embeddings: Embeddings, code: str, k: int = 10, *, level: int | None = None) -> pl.DataFrame:
    """The k codes nearest to a code, itself left out: rank, code, level, distance; nearest first.

    Args:
        level: only codes of so many digits; None: of any.

    Raises:
        NaicsError: the code is not among the embeddings; names the nearest codes that are.
    """
    row = _row_of(embeddings, code)
    allowed = _allowed(embeddings, level)
    allowed[row] = False
    found = _nearest(embeddings, embeddings.points[[row]], k, allowed)
    return found.drop("query")


def nearest_to_points(
    embeddings: Embeddings, points: np.ndarray, k: int = 10, *, level: int | None = 6
) -> pl.DataFrame:
    """The k codes nearest to each of some points, such as embedded texts: query, rank, code, level, distance.

    Args:
        points: (Q, d + 1) in the space of the embeddings; `query` is the row here.
        level: only codes of so many digits, by default six; None: of any.
    """
    return _nearest(embeddings, points, k, _allowed(embeddings, level))


def _allowed(embeddings: Embeddings, level: int | None) -> np.ndarray:
    if level is None:
        return np.ones(len(embeddings.codes), dtype=bool)
    allowed = embeddings.level == level
    if not allowed.any():
        raise NaicsError(f"no embedded code has {level} digits; there are codes of 2 to 6.")
    return allowed


def _nearest(embeddings: Embeddings, points: np.ndarray, k: int, allowed: np.ndarray) -> pl.DataFrame:
    if k < 1:
        raise NaicsError(f"asked for the {k} nearest codes: ask for at least one.")
    rows = np.flatnonzero(allowed)
    k = min(k, len(rows))
    distances = query_distances(points, embeddings.points[rows], embeddings.curvature, embeddings.geometry)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    hits = rows[order].ravel()
    return pl.DataFrame(
        {
            "query": np.repeat(np.arange(len(points)), k),
            "rank": np.tile(np.arange(1, k + 1), len(points)),
            "code": pl.Series(embeddings.codes[hits].tolist(), dtype=pl.String),
            "level": pl.Series(embeddings.level[hits], dtype=pl.UInt8),
            "distance": np.take_along_axis(distances, order, axis=1).ravel(),
        }
    )


def _row_of(embeddings: Embeddings, code: str) -> int:
    wanted = code.strip().split("-")[0]
    wanted = MERGED_SECTORS.get(wanted, wanted)
    found = np.flatnonzero(embeddings.codes == wanted)
    if found.size:
        return int(found[0])
    raise NaicsError(
        f"{code}: not a code of these embeddings, which hold {len(embeddings.codes)}. "
        f"Nearest that are: {', '.join(_similar_codes(embeddings.codes, wanted))}."
    )


def _similar_codes(codes: np.ndarray, wanted: str) -> list[str]:
    """Codes that share the longest beginning with the wanted one, those of like length and number first."""

    def unlikeness(code: str) -> tuple[int, int, int]:
        shared = max(n for n in range(len(wanted) + 1) if code.startswith(wanted[:n]))
        number = int(wanted) if wanted.isdecimal() else 0
        return -shared, abs(len(code) - len(wanted)), abs(int(code) - number)

    return sorted(codes.tolist(), key=unlikeness)[:_SUGGESTIONS]
