"""How well held-out index entries find their code: each is a query, the candidates are the six-digit codes.

Ties are averaged: a query whose right code shares its distance with others counts what it would count on average over
all orders of these. A method that gives every candidate the same distance therefore scores chance, not 0 or 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import LEVELS, sector_of
from naics_pipeline.text_model.embeddings import Embeddings

RANKS = (1, 5, 10)
_FULL_DEPTH = len(LEVELS)


def query_distances(queries: np.ndarray, codes: np.ndarray, curvature: float, geometry: str) -> np.ndarray:
    """Distance of each query's point to each code's, (Q, d + 1) and (L, d + 1) to (Q, L) float64."""
    u, v = (torch.from_numpy(np.array(points, dtype=np.float64)) for points in (queries, codes))
    if geometry == "euclidean":
        return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return lorentz.pairwise_distance(u, v, curvature=float(curvature)).numpy()


def space_scores(space: Embeddings, queries: Embeddings) -> dict[str, np.ndarray]:
    """`query_scores` of texts searched among the six-digit codes of a space.

    Args:
        queries: the texts' points in that space, each with its right code.
    Raises:
        ModelError: the queries are points of another space.
    """
    same = queries.geometry == space.geometry and queries.points.shape[1] == space.points.shape[1]
    if not same or queries.curvature != space.curvature:
        raise ModelError(
            f"the queries lie in another space ({_described(queries)}) than the codes ({_described(space)}): "
            "materialize both in one run, or name the file of queries that belongs to these embeddings."
        )
    candidates = space.level == max(LEVELS)
    distances = query_distances(queries.points, space.points[candidates], space.curvature, space.geometry)
    return query_scores(distances, space.codes[candidates], queries.codes)


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each score; NaN, null in JSON, where there is no query."""
    return {name: float(values.mean()) if values.size else float("nan") for name, values in scores.items()}


def query_metrics(
    distances: np.ndarray, candidates: np.ndarray | Sequence[str], truth: np.ndarray | Sequence[str]
) -> dict[str, float]:
    """Means of `query_scores`."""
    return means(query_scores(distances, candidates, truth))


def query_scores(
    distances: np.ndarray, candidates: np.ndarray | Sequence[str], truth: np.ndarray | Sequence[str]
) -> dict[str, np.ndarray]:
    """What each query scores: name → (Q,) float64.

    query_top{k} and query_mrr are of the right code; query_top1_digits_{n} is whether the nearest candidate agrees with
    it in its first n digits (sectors 31-33, 44-45 and 48-49 are one each); query_hierarchical_f1 is the harmonic mean
    of precision and recall of the nearest candidate's ancestors, itself among them, against the right code's
    (Kiritchenko et al., 2006): with five on either side, the shared ones over five.

    Args:
        distances: (Q, L) from each query to each candidate, or any score of which less is better.
        candidates: (L,) six-digit codes.
        truth: (Q,) the right code of each query, one of the candidates.
    """
    candidates, truth = np.asarray(candidates, dtype=np.str_), np.asarray(truth, dtype=np.str_)
    right = _positions(candidates, truth)
    own = np.take_along_axis(distances, right[:, None], axis=1)
    closer = np.count_nonzero(distances < own, axis=1)
    tied = np.count_nonzero(distances == own, axis=1)
    scores = {f"query_top{k}": np.clip((k - closer) / tied, 0, 1) for k in RANKS}
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(candidates) + 1))])
    scores["query_mrr"] = (harmonic[closer + tied] - harmonic[closer]) / tied

    query, nearest = np.nonzero(distances == distances.min(axis=1, keepdims=True))
    ancestors = _ancestors(candidates)
    shared = ancestors[nearest] == ancestors[right[query]]
    weight = 1 / np.bincount(query, minlength=len(truth))[query]
    for column, digits in enumerate(LEVELS[:-1]):
        agrees = weight * shared[:, column]
        scores[f"query_top1_digits_{digits}"] = np.bincount(query, weights=agrees, minlength=len(truth))
    overlap = weight * shared.sum(axis=1) / _FULL_DEPTH
    scores["query_hierarchical_f1"] = np.bincount(query, weights=overlap, minlength=len(truth))
    return scores


def _described(space: Embeddings) -> str:
    return f"{space.geometry}, {space.points.shape[1]} coordinates, curvature {space.curvature:.6g}"


def _positions(candidates: np.ndarray, truth: np.ndarray) -> np.ndarray:
    order = np.argsort(candidates)
    place = np.searchsorted(candidates, truth, sorter=order)
    found = order[np.minimum(place, len(candidates) - 1)]
    missing = truth[candidates[found] != truth]
    if missing.size:
        raise ModelError(
            f"{len(missing)} queries belong to codes that are no candidates, such as {missing[0]}: "
            "embeddings and index entries come from different taxonomies; materialize both from one source."
        )
    return found


def _ancestors(codes: np.ndarray) -> np.ndarray:
    """(L, 5): each code's ancestors from the sector down, the code itself last."""
    return np.array([[sector_of(code), *(code[:digits] for digits in LEVELS[1:])] for code in codes.tolist()])
