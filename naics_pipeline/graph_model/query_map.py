"""Free text in the refined space: a query enters as a new leaf, among the same codes as in the text space."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from naics_pipeline.errors import ModelError
from naics_pipeline.files import replacing
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned

_BLOCK = 256
_NEIGHBOURS = 10
_PERPLEXITY = 5.0
_RIDGE = 1e-9
_MAX_STEPS = 40
_CONVERGED = 1e-3
"""In nats, twice what a Newton step still gains. A Gauss-Newton step may gain as little and be far off yet."""
_CONVERGED_FREE = 1e-6
_ROUNDING = 1e-12
_SUFFICIENT_DECREASE = 0.1
_MAX_HALVINGS = 20
_SAME_RADIUS = 1e-5


@dataclass(frozen=True)
class QueryMap:
    """Finds for a point of the text space the new leaf of the refined space that has the same codes about it.

    What the text model says of a query q is P = softmax(-d(q, i) / τ) over its ten nearest codes i of the deepest
    level, with τ such that P has the perplexity of five codes (as in stochastic neighbour embedding, van der Maaten &
    Hinton, 2008); summed over what lies below them, P says what q is at every other level, too. Refined codes of one
    level lie on one sphere, so how a leaf orders them depends on its direction alone, through the inner products
    ⟨w, x⟩ with their spatial coordinates x. That makes the search for it convex: w minimises

        Σ_levels KL(P_level ‖ softmax_{i of the level} ⟨w, x_i⟩) + λ/2 |w|²,

    by Newton's method, and the leaf has the direction of w and the radius of the other leaves. Where refined radii are
    free (`graph.radii`), how a leaf at that radius orders codes depends on their own radii, too: through
    ⟨w, x⟩ - κ|w| x₀, x₀ being their time coordinates and κ the leaf's time coordinate over its spatial length. Its
    Gauss-Newton steps start where that is convex (κ = 0). Such a space keeps less of the order: as of all its points, a
    leaf's nearest codes tend to be those near the origin, the more so the more the radii of a level differ, and no
    direction undoes that. In a refined space of 117 codes, whose leaves' radii had a standard deviation of 0.03, 93 %
    of queries kept their first code (on spheres 100 %), and 90 % of their five nearest were kept (98 %); of text points
    without any order, among leaves of radius 5.0 ± 0.16, next to nothing.

    A point beside the query's nearest code would instead see that code's siblings first, whatever the text model holds
    likely after it. What is kept is the order of codes and nothing else: such a leaf lies far from all of them, about
    equally far, even where its likely codes are all of one branch. How far away a query's codes are is to be asked in
    the text space.

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
        leaf = torch.from_numpy(self.refined[self.ancestors[:, -1], 1:])
        length = lorentz.norm(leaf).mean()
        if self._on_spheres():
            w = _minimise(levels, wanted)
        else:
            slope = float((1 / self.curvature + length**2).sqrt() / length)
            w = _minimise(levels, wanted, slope=slope, start=_minimise(levels, wanted, slope=0.0))
        return lorentz.from_spatial(w / lorentz.norm(w) * length, curvature=self.curvature)

    def _on_spheres(self) -> bool:
        length = np.linalg.norm(self.refined[:, 1:], axis=1)
        return all(np.ptp(length[self.level == level]) < _SAME_RADIUS * length.max() for level in np.unique(self.level))

    def _levels(self) -> "list[_Level]":
        """The codes by level; time coordinates last where codes of a level differ in theirs."""
        spatial = torch.from_numpy(self.refined[:, 1:])
        longest = lorentz.norm(spatial).max()
        if not self._on_spheres():
            spatial = torch.from_numpy(np.roll(self.refined, -1, axis=1))
        spatial = spatial / longest
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


def _minimise(
    levels: list[_Level], wanted: list[Tensor], slope: float | None = None, start: Tensor | None = None
) -> Tensor:
    """(n, d): for each of n queries, the w that minimises what `QueryMap` says.

    Args:
        slope: κ, where the codes come with time coordinates; None where they do not.
        start: (n, d) where to begin, 0 without it.
    """
    size = levels[0].x.shape[1]
    dim, converged = (size, _CONVERGED) if slope is None else (size - 1, _CONVERGED_FREE)
    w = wanted[0].new_zeros(len(wanted[0]), dim) if start is None else start.clone()
    left = torch.arange(len(w))
    row, column = torch.triu_indices(size, size)
    # Where in a packed triangle each entry of the whole matrix stands.
    packed_at = torch.empty(size, size, dtype=torch.long)
    packed_at[row, column] = packed_at[column, row] = torch.arange(len(row))
    penalty = _RIDGE * torch.eye(size, dtype=w.dtype)
    penalty[dim:] = 0
    for _ in range(_MAX_STEPS):
        here = w[left]
        target = [shares[left] for shares in wanted]
        gradient = _RIDGE * torch.nn.functional.pad(here, (0, size - dim))
        products, means = here.new_zeros(len(left), len(row)), here.new_zeros(len(left), len(levels), size)
        for number, (level, shares) in enumerate(zip(levels, target, strict=True)):
            found = torch.softmax(_lifted(here, slope) @ level.x.T, dim=1)
            means[:, number] = found @ level.x
            gradient = gradient + means[:, number] - shares @ level.x
            products.addmm_(found, level.outer)
        hessian = products[:, packed_at].add_(penalty).baddbmm_(means.mT, means, alpha=-1)
        if slope is not None:
            gradient, hessian = _lowered(gradient, hessian, here, slope)
        step = torch.linalg.solve(hessian, gradient)
        decrement = (gradient * step).sum(1)
        w[left] = _descended(here, step, decrement, levels, target, slope)
        left = left[decrement > converged]
        if not len(left):
            break
    return w


def _lifted(w: Tensor, slope: float | None) -> Tensor:
    """What the codes' coordinates are multiplied by: (w, -κ|w|), w itself where they have no time coordinates."""
    return w if slope is None else torch.cat([w, -slope * lorentz.norm(w)], dim=1)


def _lowered(gradient: Tensor, hessian: Tensor, w: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Gradient (n, d) and Gauss-Newton matrix (n, d, d) in w, from those (n, d + 1) in what w is lifted to."""
    down = -slope * w / lorentz.norm(w)
    crossed = down.unsqueeze(2) * hessian[:, None, -1, :-1]
    last = hessian[:, -1:, -1:] * down.unsqueeze(2) * down.unsqueeze(1)
    return gradient[:, :-1] + down * gradient[:, -1:], hessian[:, :-1, :-1] + crossed + crossed.mT + last


def _descended(
    w: Tensor, step: Tensor, decrement: Tensor, levels: list[_Level], target: list[Tensor], slope: float | None
) -> Tensor:
    """w - a step, with a halved until the objective falls enough (Armijo)."""
    before, share = _objective(w, levels, target, slope), torch.ones_like(decrement)
    for _ in range(_MAX_HALVINGS):
        after = _objective(w - share.unsqueeze(1) * step, levels, target, slope)
        short = after > before - _SUFFICIENT_DECREASE * share * decrement + _ROUNDING
        if not short.any():
            break
        share = torch.where(short, share / 2, share)
    return w - share.unsqueeze(1) * step


def _objective(w: Tensor, levels: list[_Level], target: list[Tensor], slope: float | None) -> Tensor:
    total, lifted = _RIDGE / 2 * w.square().sum(1), _lifted(w, slope)
    for level, shares in zip(levels, target, strict=True):
        score = lifted @ level.x.T
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
