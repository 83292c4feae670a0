"""Free text in the refined space: a query enters as a new leaf that sees the codes as it did in the text space."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.refine import aligned
from naics_pipeline.storage import replacing
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

_BLOCK = 512
_PERPLEXITY = 5.0
_STEPS = 150
_LEARNING_RATE = 0.1
_START_SHARPNESS = 4.0
_MAX_RADIUS = 12.0
_HALVINGS = 10
_CLEARLY = 1e-9


@dataclass(frozen=True)
class QueryMap:
    """Finds for a point of the text space the point of the refined space whose neighbours are the same.

    As in stochastic neighbour embedding, P = softmax(-d(q, i) / τ) over the candidates i of the text space, τ being
    such that P has the perplexity of five codes; the new point q' minimises KL(P ‖ softmax(-β d'(q', i))) over q', β.
    Where the codes' neighbourhoods follow the tree and the query's do not (its five nearest lie in different branches),
    a point beside its nearest code would see that code's siblings first; the point found here lies farther out.
    Then q' is drawn towards the refined point of the query's nearest candidate, along a line in the tangent space and
    about as far as it takes for that candidate to be the nearest one there too. So the nearest candidate of a query is
    the same in both spaces, as long as no two refined candidates coincide.

    Attributes:
        text, refined: (L, d + 1) float64, points of the candidates: the codes of the deepest level.
        text_curvature, curvature: c > 0 of the two spaces.
    """

    text: np.ndarray
    refined: np.ndarray
    text_curvature: float
    curvature: float

    @classmethod
    def fit(cls, text: Embeddings, refined: Embeddings) -> "QueryMap":
        """The map between two sets of embeddings of the same codes.

        Raises:
            ModelError: the two hold different codes, or are not hyperbolic.
        """
        tree = Tree.from_codes(text.codes.tolist())
        text, refined = aligned(text, tree), aligned(refined, tree)
        deepest = tree.level == tree.level.max()
        return cls(text.points[deepest], refined.points[deepest], text.curvature, refined.curvature)

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
                return cls(file["text"], file["refined"], float(file["text_curvature"]), float(file["curvature"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ModelError(
                f"{path}: not a readable query map ({error}). Materialize refined_embeddings again, which writes it."
            ) from error

    def _apply(self, queries: Tensor) -> Tensor:
        distance = lorentz.pairwise_distance(queries, torch.from_numpy(self.text), curvature=self.text_curvature)
        candidates = torch.from_numpy(self.refined)
        v = self._placed(_neighbourhood(distance, _PERPLEXITY), candidates)
        return self._drawn_in(v, candidates, distance.argmin(dim=1))

    def _bounded(self, v: Tensor) -> Tensor:
        root = math.sqrt(self.curvature)
        return lorentz.bound_radius(v * root, _MAX_RADIUS) / root

    def _placed(self, wanted: Tensor, candidates: Tensor) -> Tensor:
        """Tangent vectors (n, d) of points whose softmax(-β d) over the candidates is closest to `wanted` (n, L)."""
        tangent = lorentz.log0(candidates, curvature=self.curvature)
        # Adam scales each coordinate by itself: along principal axes the coarse and the fine of the tree come apart.
        axes = torch.linalg.eigh(tangent.T @ tangent).eigenvectors
        v = (wanted @ tangent @ axes).requires_grad_()
        log_sharpness = torch.full_like(v[:, :1], math.log(_START_SHARPNESS)).detach().requires_grad_()
        optimizer = torch.optim.Adam([v, log_sharpness], lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            points = lorentz.exp0(self._bounded(v @ axes.T), curvature=self.curvature)
            distance = lorentz.pairwise_distance(points, candidates, curvature=self.curvature)
            optimizer.zero_grad()
            # A sum over queries: what a query becomes does not hang on the others of its block.
            torch.nn.functional.cross_entropy(-log_sharpness.exp() * distance, wanted, reduction="sum").backward()
            optimizer.step()
            schedule.step()
        return self._bounded(v.detach() @ axes.T)

    def _drawn_in(self, v: Tensor, candidates: Tensor, nearest: Tensor) -> Tensor:
        """Points for tangent vectors (n, d), each drawn to its `nearest` (n,) until that is the nearest candidate."""
        goal = candidates[nearest]
        target = lorentz.log0(goal, curvature=self.curvature)
        best, low, high = goal, torch.zeros_like(v[:, :1]), torch.ones_like(v[:, :1])
        middle = low
        for _ in range(_HALVINGS):
            points = lorentz.exp0(v + middle * (target - v), curvature=self.curvature)
            distance = lorentz.pairwise_distance(points, candidates, curvature=self.curvature)
            own = distance.gather(1, nearest.unsqueeze(1))
            reached = (distance < own + _CLEARLY).sum(dim=1, keepdim=True) == 1
            best = torch.where(reached, points, best)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
            middle = (low + high) / 2
        return best


def _neighbourhood(distance: Tensor, perplexity: float) -> Tensor:
    """softmax(-distance / τ) of each row, (n, L), with τ such that exp(entropy) is the perplexity, at most L."""
    goal = math.log(min(perplexity, max(distance.shape[1] - 1e-3, 1.0)))
    excess = distance - distance.min(dim=1, keepdim=True).values
    low, high = torch.full_like(excess[:, :1], -12), torch.full_like(excess[:, :1], 6)
    for _ in range(40):
        middle = (low + high) / 2
        shares = torch.softmax(-excess / middle.exp(), dim=1)
        above = torch.special.entr(shares).sum(dim=1, keepdim=True) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return shares
