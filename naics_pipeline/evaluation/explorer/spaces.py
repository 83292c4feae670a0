"""A space as a picture: its places in the disk, its distances from every side, and where texts land in it."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from naics_pipeline.evaluation.distances import embedding_distances, tangent_vectors
from naics_pipeline.evaluation.explorer.texts import SearchedTexts
from naics_pipeline.evaluation.explorer.values import column, number, numbers
from naics_pipeline.evaluation.layout import DiskLayout, disk_layout, nearest_of
from naics_pipeline.evaluation.neighbours import code_scores
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned

NEIGHBOURS = 12
_BINS = 72
_CANDIDATES = 5
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_MOST = 2047
"""Of a number of twelve bits and its sign."""


@dataclass(frozen=True)
class PicturedSpace:
    """All codes of a tree, in its order, with their distances and their places in the picture.

    Attributes:
        tangent: (N, d) tangent vectors at the origin; the points themselves where geometry is euclidean.
        distances: (N, N).
        radii: (N,) distances from the origin.
    """

    tangent: np.ndarray
    curvature: float
    geometry: str
    distances: np.ndarray
    radii: np.ndarray
    layout: DiskLayout

    @classmethod
    def of(cls, space: Embeddings, tree: Tree) -> "PicturedSpace":
        """Raises ModelError where the space's codes are not those of the tree."""
        points = aligned(space, tree).points
        distances = embedding_distances(points, space.curvature, space.geometry)
        tangent = tangent_vectors(space, tree)
        radii = np.linalg.norm(tangent, axis=1)
        return cls(tangent, space.curvature, space.geometry, distances, radii, disk_layout(distances, radii, tree))


def space_content(label: str, space: PicturedSpace, tree: Tree, texts: SearchedTexts | None) -> dict[str, Any]:
    """What the page shows of a space; texts are placed in it, wherever they were searched."""
    layout, k = space.layout, min(NEIGHBOURS, len(tree) - 1)
    near = nearest_of(space.distances, k) if k else np.empty((len(tree), 0), dtype=np.int64)
    scores = code_scores(space.distances, tree, cutoffs=(10,))
    return {
        "label": label,
        "geometry": space.geometry,
        "curvature": float(space.curvature),
        "dimensions": space.tangent.shape[1],
        "radius": numbers(layout.radius, 5),
        "angle": numbers(layout.angle, 6),
        "correlation": number(layout.correlation, 3),
        "error": number(float(np.median(layout.error)), 3),
        "kept": number(layout.kept, 3),
        "neighbours": near.ravel().tolist(),
        "distances": numbers(np.take_along_axis(space.distances, near, axis=1).ravel(), 3),
        "points": _packed(space.tangent),
        "columns": [
            column("radius", "Distance from the origin", space.radii, 3),
            column("relatives", "Relatives missed (1\u00a0−\u00a0NDCG@10)", 1 - scores["ndcg@10"], 3),
            column("edges", "Parent and children missed (1\u00a0−\u00a0edge\u00a0MAP)", 1 - scores["map_edges"], 3),
            column("drawn", "Distances distorted by the picture", layout.error, 3),
        ],
        "density": _density(space.distances, tree),
        "levels": _levels(space.radii, tree),
        "texts": None if texts is None else _text_places(texts, layout, tree),
    }


def _packed(tangent: np.ndarray) -> dict[str, Any]:
    """Twelve bits a coordinate, two in three bytes: distances formed from them are right to two decimals.

    The axes are the principal ones, which changes no distance, each with a step of its own: the later ones are short.
    """
    turned = tangent @ np.linalg.eigh(tangent.T @ tangent)[1][:, ::-1]
    step = np.maximum(np.abs(turned).max(axis=0, initial=0) / _MOST, np.finfo(np.float32).tiny)
    whole = (np.round(turned / step).astype(np.int64) + _MOST + 1).ravel()
    first, second = np.pad(whole, (0, len(whole) % 2)).reshape(-1, 2).T
    packed = np.column_stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255]).astype(np.uint8)
    return {"step": step.tolist(), "base64": base64.b64encode(packed.tobytes()).decode()}


def _density(distances: np.ndarray, tree: Tree) -> dict[str, Any]:
    """For every distance in the tree, how the embedding's distances of such pairs spread: counts in equal bins."""
    first, second = np.triu_indices(len(tree), k=1)
    steps, values = tree.tree_distance()[first, second], distances[first, second]
    bins = np.linspace(0, max(float(values.max(initial=0)), 1e-9), _BINS + 1)
    rows = []
    for step in np.unique(steps):
        here = values[steps == step]
        count = np.histogram(here, bins=bins)[0]
        rows.append({"step": int(step), "median": number(float(np.median(here)), 3), "counts": count.tolist()})
    return {"largest": float(bins[-1]), "rows": rows}


def _levels(radii: np.ndarray, tree: Tree) -> list[dict[str, Any]]:
    """For every level, quantiles of the codes' distances from the origin."""
    found = []
    for level in LEVELS:
        here = radii[tree.level == level]
        if len(here):
            quantiles = numbers(np.quantile(here, _QUANTILES), 4)
            found.append({"level": level, "count": len(here), "quantiles": quantiles})
    return found


def _text_places(texts: SearchedTexts, layout: DiskLayout, tree: Tree) -> dict[str, Any]:
    """Each text at the centroid of its likeliest codes in the picture; texts with one first answer spread about it.

    The centroid is that of the hyperboloid (Law et al., 2019), weighted by probability; texts of one answer then move
    apart in the order of a sunflower's seeds, so that none hides another.
    """
    at, shares = texts.likeliest(_CANDIDATES)
    plane = torch.from_numpy(np.column_stack([np.cos(layout.angle), np.sin(layout.angle)]) * layout.radius[:, None])
    codes = lorentz.exp0(plane)[torch.from_numpy(tree.position(texts.candidates))]
    centre = lorentz.to_poincare(lorentz.centroid(codes[torch.from_numpy(at)], torch.from_numpy(shares))).numpy()
    z = centre[:, 0] + 1j * centre[:, 1]
    seed = _running_count(texts.found)
    step = np.tanh(0.03 * np.sqrt(seed + 1.0)) * np.exp(1j * _GOLDEN_ANGLE * seed)
    moved = (step + z) / (1 + np.conj(z) * step)
    radius = 2 * np.arctanh(np.abs(moved).clip(max=1 - 1e-12))
    return {"radius": numbers(radius, 4), "angle": numbers(np.angle(moved), 5)}


def _running_count(groups: np.ndarray) -> np.ndarray:
    """(Q,) how many earlier rows belong to the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.searchsorted(ordered, ordered)
    count = np.empty(len(groups), dtype=np.int64)
    count[order] = np.arange(len(groups)) - first
    return count
