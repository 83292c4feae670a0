"""Free text in the refined space: where a point of the text model's space lies after refinement."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.refine import aligned, text_distances_in_edges
from naics_pipeline.storage import replacing
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

_BLOCK = 512
_HALVINGS = 10
# Candidate temperatures, in edges of the tree.
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


@dataclass(frozen=True)
class QueryMap:
    """Moves a query the way refinement moved the codes around it.

    With tangent vectors at the origin, v the query's and x_i, y_i those of code i before and after refinement:
    v' = v / s + Σ w_i (y_i - x_i / s), w = softmax(-d(q, i) / τs) over all codes, s being the text model's length of a
    tree edge. Then v' is drawn towards the refined point of the query's nearest candidate, along the straight line
    in the tangent space and about as far as it takes for that candidate to be the nearest one there too. So a query's
    nearest candidate is the same in both spaces, whatever τ is and as long as no two refined candidates coincide.

    Attributes:
        text, refined: (N, d + 1) float64, points of all codes.
        candidates: (L,) indices of the codes that queries are for, those of the deepest level.
        text_curvature, curvature: c > 0 of the two spaces.
        edge_length: s.
        temperature: τ, in edges of the tree.
    """

    text: np.ndarray
    refined: np.ndarray
    candidates: np.ndarray
    text_curvature: float
    curvature: float
    edge_length: float
    temperature: float

    @classmethod
    def fit(
        cls,
        text: Embeddings,
        refined: Embeddings,
        *,
        queries: np.ndarray | None = None,
        truth: np.ndarray | None = None,
    ) -> "QueryMap":
        """The map between two sets of embeddings of the same codes; only τ is chosen.

        Args:
            queries: (Q, d + 1) text points of texts whose right code, (Q,) `truth`, is known from training: τ is the
                one with the best mean reciprocal rank. Without them it is the one that best predicts each code's own
                move from the moves of the others.
        Raises:
            ModelError: the two hold different codes, or are not hyperbolic.
        """
        tree = Tree.from_codes(text.codes.tolist())
        text, refined = aligned(text, tree), aligned(refined, tree)
        edge_length, distance = text_distances_in_edges(text, tree)
        start = cls(
            text=text.points,
            refined=refined.points,
            candidates=np.flatnonzero(tree.level == tree.level.max()),
            text_curvature=text.curvature,
            curvature=refined.curvature,
            edge_length=edge_length,
            temperature=_TEMPERATURES[0],
        )
        maps = [replace(start, temperature=temperature) for temperature in _TEMPERATURES]
        if queries is None or truth is None:
            return min(maps, key=lambda each: each._error_on_codes(distance))
        right = np.searchsorted(tree.codes[start.candidates], truth)
        return max(maps, key=lambda each: each._mean_reciprocal_rank(queries, right))

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points of the text space, (n, d + 1), to points of the refined space, (n, d + 1) float64."""
        blocks = torch.from_numpy(np.array(points, dtype=np.float64)).split(_BLOCK)
        moved = [self._apply(block).numpy() for block in blocks if len(block)]
        return np.concatenate(moved) if moved else np.empty((0, self.refined.shape[1]))

    def save(self, path: Path) -> None:
        """Writes the map to one .npz file, whole or not at all."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "QueryMap":
        """Reads what `save` wrote.

        Raises:
            ModelError: the file is absent, damaged, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] if file[name].ndim else float(file[name]) for name in file.files}
            return cls(**content)
        except (OSError, ValueError, TypeError, BadZipFile) as error:
            raise ModelError(
                f"{path}: not a readable query map ({error}). Materialize refined_embeddings again, which writes it."
            ) from error

    def _apply(self, queries: Tensor) -> Tensor:
        text, refined = torch.from_numpy(self.text), torch.from_numpy(self.refined)
        distance = lorentz.pairwise_distance(queries, text, curvature=self.text_curvature)
        moved = lorentz.log0(queries, curvature=self.text_curvature) / self.edge_length + self._move(distance)
        candidates = refined[self.candidates]
        nearest = distance[:, self.candidates].argmin(dim=1)
        return self._drawn_in(moved, candidates, nearest)

    def _move(self, distance: Tensor) -> Tensor:
        """Mean move, as tangent vectors (n, d), of the codes at these distances (n, N) in the text space."""
        before = lorentz.log0(torch.from_numpy(self.text), curvature=self.text_curvature) / self.edge_length
        after = lorentz.log0(torch.from_numpy(self.refined), curvature=self.curvature)
        return torch.softmax(-distance / (self.temperature * self.edge_length), dim=1) @ (after - before)

    def _drawn_in(self, v: Tensor, candidates: Tensor, nearest: Tensor) -> Tensor:
        """Points for tangent vectors (n, d), each drawn to its `nearest` (n,) until that is the nearest candidate."""
        goal = candidates[nearest]
        target = lorentz.log0(goal, curvature=self.curvature)

        def reached(share: Tensor) -> tuple[Tensor, Tensor]:
            points = lorentz.exp0(v + share * (target - v), curvature=self.curvature)
            points = torch.where(share < 1, points, goal)
            distance = lorentz.pairwise_distance(points, candidates, curvature=self.curvature)
            return points, (distance.argmin(dim=1) == nearest).unsqueeze(-1)

        points, there = reached(torch.zeros_like(v[:, :1]))
        best = torch.where(there, points, goal)
        low, high = torch.zeros_like(v[:, :1]), (~there).to(v.dtype)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            points, there = reached(middle)
            best = torch.where(there, points, best)
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        return best

    def _error_on_codes(self, distance: np.ndarray) -> float:
        """Mean squared error of each code's move as predicted from all others (distances in edges, (N, N))."""
        others = torch.from_numpy(distance * self.edge_length).fill_diagonal_(torch.inf)
        before = lorentz.log0(torch.from_numpy(self.text), curvature=self.text_curvature) / self.edge_length
        after = lorentz.log0(torch.from_numpy(self.refined), curvature=self.curvature)
        return float((self._move(others) - (after - before)).square().sum(-1).mean())

    def _mean_reciprocal_rank(self, queries: np.ndarray, right: np.ndarray) -> float:
        points = torch.from_numpy(self.apply(queries))
        candidates = torch.from_numpy(self.refined[self.candidates])
        distance = lorentz.pairwise_distance(points, candidates, curvature=self.curvature)
        own = distance.gather(1, torch.from_numpy(right).unsqueeze(1))
        return float((1 / ((distance < own).sum(dim=1) + 1).double()).mean())
