"""Free text in the refined space: a query enters as a new leaf, among the same codes as in the text space."""

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

_BLOCK = 1024
_NEIGHBOURS = 10
_PERPLEXITY = 5.0
_RIDGE = 1e-9
_MAX_STEPS = 40
_CONVERGED = 1e-6
_SUFFICIENT_DECREASE = 0.1
_MAX_HALVINGS = 20


@dataclass(frozen=True)
class QueryMap:
    """Finds for a point of the text space the new leaf of the refined space that has the same codes about it.

    What the text model says of a query q is P = softmax(-d(q, i) / τ) over its ten nearest codes i of the deepest
    level, with τ such that P has the perplexity of five codes (as in stochastic neighbour embedding, van der Maaten &
    Hinton, 2008); summed over what lies below them, P says what q is at every other level, too. Refined codes of one
    level lie on one sphere, so how a leaf orders them depends on its direction alone, through the inner products
    ⟨w, x⟩ with their spatial coordinates x. That makes the search for it convex: w minimises

        Σ_levels KL(P_level ‖ softmax_{i of the level} ⟨w, x_i⟩) + λ/2 |w|²,

    by Newton's method, and the leaf has the direction of w and the radius of the other leaves. A point beside the
    query's nearest code would instead see that code's siblings first, whatever the text model holds likely after it.
    What is kept is the order of codes and nothing else: such a leaf lies far from all of them, about equally far, even
    where its likely codes are all of one branch. How far away a query's codes are is to be asked in the text space.

    Attributes:
        text: (L, d + 1) float64, text points of the codes of the deepest level.
        refined: (N, d + 1) float64, refined points of all codes.
        level: (N,) number of digits.
        ancestors: (L, levels) rows of `refined`: each deepest code's ancestors, itself last.
        text_curvature, curvature: c > 0 of the two spaces.
    """

    text: np.ndarray
    refined: np.ndarray
    level: np.ndarray
    ancestors: np.ndarray
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
        ancestors = tree.ancestors()[deepest]
        ancestors = ancestors[:, (ancestors >= 0).all(axis=0)]
        return cls(text.points[deepest], refined.points, tree.level, ancestors, text.curvature, refined.curvature)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points of the text space, (n, d + 1), to points of the refined space, (n, d + 1) float64."""
        levels = self._levels()
        blocks = torch.from_numpy(np.array(points, dtype=np.float64)).split(_BLOCK)
        moved = [self._apply(block, levels).numpy() for block in blocks if len(block)]
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
                text, refined, level, ancestors = (file[name] for name in ("text", "refined", "level", "ancestors"))
                curvatures = float(file["text_curvature"]), float(file["curvature"])
                return cls(text, refined, level, ancestors, *curvatures)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ModelError(
                f"{path}: not a readable query map ({error}). Materialize refined_embeddings again, which writes it."
            ) from error

    def _apply(self, queries: Tensor, levels: "list[_Level]") -> Tensor:
        distance = lorentz.pairwise_distance(queries, torch.from_numpy(self.text), curvature=self.text_curvature)
        neighbours = distance.topk(min(_NEIGHBOURS, distance.shape[1]), dim=1, largest=False)
        shares = torch.zeros_like(distance)
        shares.scatter_(1, neighbours.indices, _neighbourhood(neighbours.values, _PERPLEXITY))
        wanted = [shares.new_zeros(len(shares), len(x.x)).index_add_(1, x.member, shares) for x in levels]
        w = _minimise(levels, wanted)
        leaf = torch.from_numpy(self.refined[self.ancestors[:, -1], 1:])
        spatial = w / lorentz.norm(w) * lorentz.norm(leaf).mean()
        return lorentz.from_spatial(spatial, curvature=self.curvature)

    def _levels(self) -> "list[_Level]":
        spatial = torch.from_numpy(self.refined[:, 1:])
        spatial = spatial / lorentz.norm(spatial).max()
        levels = []
        for column in self.ancestors.T:
            rows = np.flatnonzero(self.level == self.level[column[0]])
            levels.append(_Level.of(spatial[rows], torch.from_numpy(np.searchsorted(rows, column))))
        return levels


@dataclass(frozen=True)
class _Level:
    """The codes of a level: `x` (n, d), the products x xᵀ of each as the rows of `outer`, and the member over each
    code of the deepest level."""

    x: Tensor
    outer: Tensor
    member: Tensor

    @classmethod
    def of(cls, x: Tensor, member: Tensor) -> "_Level":
        row, column = torch.triu_indices(x.shape[1], x.shape[1])
        return cls(x, x[:, row] * x[:, column], member)


def _minimise(levels: list[_Level], wanted: list[Tensor]) -> Tensor:
    """(n, d): for each of n queries, the w that minimises what `QueryMap` says."""
    dim = levels[0].x.shape[1]
    w = wanted[0].new_zeros(len(wanted[0]), dim)
    left = torch.arange(len(w))
    row, column = torch.triu_indices(dim, dim)
    for _ in range(_MAX_STEPS):
        here = w[left]
        target = [shares[left] for shares in wanted]
        gradient, packed = _RIDGE * here, here.new_zeros(len(left), len(row))
        hessian = _RIDGE * torch.eye(dim, dtype=w.dtype).repeat(len(left), 1, 1)
        for level, shares in zip(levels, target, strict=True):
            found = torch.softmax(here @ level.x.T, dim=1)
            mean = found @ level.x
            gradient = gradient + mean - shares @ level.x
            packed += found @ level.outer
            hessian -= mean.unsqueeze(2) * mean.unsqueeze(1)
        hessian[:, row, column] += packed
        off = row != column
        hessian[:, column[off], row[off]] += packed[:, off]
        step = torch.linalg.solve(hessian, gradient)
        decrement = (gradient * step).sum(1)
        w[left] = _descended(here, step, decrement, levels, target)
        left = left[decrement > _CONVERGED]
        if not len(left):
            break
    return w


def _descended(w: Tensor, step: Tensor, decrement: Tensor, levels: list[_Level], target: list[Tensor]) -> Tensor:
    """w - a step, with a halved until the objective falls enough (Armijo)."""
    before, share = _objective(w, levels, target), torch.ones_like(decrement)
    for _ in range(_MAX_HALVINGS):
        after = _objective(w - share.unsqueeze(1) * step, levels, target)
        short = after > before - _SUFFICIENT_DECREASE * share * decrement + _CONVERGED**2
        if not short.any():
            break
        share = torch.where(short, share / 2, share)
    return w - share.unsqueeze(1) * step


def _objective(w: Tensor, levels: list[_Level], target: list[Tensor]) -> Tensor:
    total = _RIDGE / 2 * w.square().sum(1)
    for level, shares in zip(levels, target, strict=True):
        score = w @ level.x.T
        total = total + torch.logsumexp(score, dim=1) - (shares * score).sum(1)
    return total


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
