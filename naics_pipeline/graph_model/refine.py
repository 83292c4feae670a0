"""Fits the graph model to a taxonomy: text embeddings in, refined embeddings out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from naics_pipeline.errors import ModelError, TrainingError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.graph import build_graph
from naics_pipeline.graph_model.module import MAX_CURVATURE, MIN_CURVATURE, HyperbolicGCN
from naics_pipeline.graph_model.objective import PAIR_TERMS, PairTerms, TextDistances, triplet_loss
from naics_pipeline.graph_model.sampling import TripletSampler
from naics_pipeline.graph_model.smoothing import smooth
from naics_pipeline.graph_model.steps import DistancesByStep, distances_between
from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import BLOCK_ENTRIES, Tree
from naics_pipeline.text_model.device import reproducible, resolve
from naics_pipeline.text_model.embeddings import Embeddings, aligned
from naics_pipeline.text_model.losses.radius import radius_loss

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Refinement:
    """Refined points of all codes, in the order of the tree's codes.

    Attributes:
        points: (N, d + 1) float64 on the hyperboloid.
        curvature: c > 0 of their space.
        history: an entry per epoch: every term, its weight, curvature and learning rate.
        metrics: how codes fare that were left out of every loss of a second fit (`left_out_*`), beside the rest; where
            pairs were held out, how well their distances meet the tree's (`held_out_pairs_*`), beside the trained ones.
        hits: metric of these that is a share of codes → (n,) bool, whether each code counts.
    """

    points: np.ndarray
    curvature: float
    history: list[dict[str, float]]
    metrics: dict[str, float]
    hits: dict[str, np.ndarray]


def refine(
    embeddings: Embeddings,
    tree: Tree,
    excluded: np.ndarray,
    settings: Graph,
    *,
    seed: int,
    accelerator: str = "auto",
    on_epoch: OnEpoch = lambda epoch, values: None,
    held_out: np.ndarray | None = None,
) -> Refinement:
    """Fits the graph model on all codes; then once more with some left out, to measure what generalises.

    No term sees a held-out pair. The graph and the offsets still know the tree: two codes whose pair is held out may
    hear each other as neighbours, and share the offsets of their ancestors.

    Args:
        embeddings: the text model's points.
        excluded: (N, N) bool, pairs of codes that exclude one another.
        on_epoch: told every term's mean after each `steps_per_epoch` steps of the fit on all codes.
        held_out: (N, N) bool, symmetric, in the order of the tree's codes: pairs no term may see, neither as a distance
            to be met nor as anchor and positive or anchor and negative of a triplet. `tree.held_out_pairs` gives those
            of the text model.
    Raises:
        ModelError: the embeddings are not hyperbolic, or not of this taxonomy.
        TrainingError: a term is not finite.
    """
    _refuse_flat(embeddings)
    text = aligned(embeddings, tree)
    fit = _Fit(text, tree, excluded, settings, resolve(accelerator), held_out)
    points, curvature, history = fit.run(np.arange(len(tree)), seed, on_epoch)
    metrics, hits = _generalisation(fit, seed)
    return Refinement(points, curvature, history, metrics | _held_out_metrics(fit, points, curvature), hits)


def _refuse_flat(embeddings: Embeddings) -> None:
    if embeddings.geometry != "lorentz":
        raise ModelError(
            f"text embeddings are {embeddings.geometry}: the graph model refines points of the Lorentz model only. "
            "Set model.geometry to lorentz, or evaluate the text embeddings as they are."
        )


class _Fit:
    """What every fit on one set of embeddings shares."""

    def __init__(
        self,
        text: Embeddings,
        tree: Tree,
        excluded: np.ndarray,
        settings: Graph,
        device: torch.device,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.text, self.tree, self.excluded, self.settings, self.device = text, tree, excluded, settings, device
        self.held_out = held_out
        # MPS has no float64; elsewhere it costs little at this size and keeps centroids exact at any radius.
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.graph = build_graph(tree, settings).to(device)
        self.graph.edge_weight = self.graph.edge_weight.to(self.dtype)
        text_distances = text_distances_in_edges(text, tree)
        on_device = text_distances.points.to("cpu" if device.type == "mps" else device)
        self.text_distances = replace(text_distances, points=on_device)

    def model(self, kept: np.ndarray) -> HyperbolicGCN:
        """An untrained model. Text points enter scaled to edges of length 1: exactly so, as c → c / s²."""
        points = torch.from_numpy(self.text.points)
        edge_length = self.text_distances.edge_length
        features = lorentz.log0(points, curvature=self.text.curvature) / edge_length
        curvature = min(max(self.text.curvature * edge_length**2, MIN_CURVATURE), MAX_CURVATURE)
        with_offset = torch.zeros(len(self.tree), dtype=torch.bool)
        with_offset[kept] = True
        ancestors = torch.from_numpy(self.tree.ancestors().astype(np.int64))
        level = torch.from_numpy(self.tree.level.astype(np.int64))
        model = HyperbolicGCN(features, curvature, ancestors, level, with_offset, self.settings)
        return model.to(device=self.device, dtype=self.dtype)

    @reproducible()
    def run(
        self, kept: np.ndarray, seed: int, on_epoch: OnEpoch = lambda epoch, values: None
    ) -> tuple[np.ndarray, float, list[dict[str, float]]]:
        """Fits a model whose losses see the codes `kept` only; points of all codes, curvature, history."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            model = self.model(kept)
            history = _Training(self, model, kept, seed).run(on_epoch)
            model.eval()
            with torch.no_grad():
                points = model(self.graph).double().cpu()
                curvature = float(model.curvature)
        # Once more in float64: what float32 left of a deviation from the hyperboloid goes.
        return lorentz.from_spatial(points[:, 1:], curvature=curvature).numpy(), curvature, history


class _Training:
    """The training loop of one fit: one step is the whole graph and its pairs of codes, all or a sample of them."""

    def __init__(self, fit: _Fit, model: HyperbolicGCN, kept: np.ndarray, seed: int) -> None:
        self.fit, self.model, self.settings = fit, model, fit.settings
        self.kept = torch.from_numpy(kept).to(fit.device)
        self.sampler = TripletSampler(fit.tree, kept, fit.excluded, fit.settings, seed, fit.held_out)
        self.pairs = PairTerms(
            fit.tree,
            fit.text_distances,
            kept,
            fit.device,
            pairs_per_step=fit.settings.pairs_per_step,
            seed=seed,
            held_out=fit.held_out,
        )
        self.level = torch.from_numpy(fit.tree.level[kept].astype(np.int64)).to(fit.device)
        given = {name: weight for name, weight in vars(fit.settings.objective).items() if weight > 0}
        self.log_variance = nn.ParameterDict(
            {name: torch.tensor(-math.log(weight), dtype=fit.dtype) for name, weight in given.items()}
        ).to(fit.device)
        learned = self.settings.weighting == "uncertainty"
        parameters = [*model.parameters(), *(self.log_variance.parameters() if learned else ())]
        self.optimizer = torch.optim.Adam(parameters, lr=fit.settings.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._warmup_then_cosine)

    def _warmup_then_cosine(self, step: int) -> float:
        steps = self.settings.steps
        warmup = max(1, steps // 20)
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))

    def run(self, on_epoch: OnEpoch) -> list[dict[str, float]]:
        history: list[dict[str, float]] = []
        seen: list[dict[str, float]] = []
        for step in range(self.settings.steps):
            if step % self.settings.steps_per_epoch == 0:
                self.triplets = self.sampler.draw(self._distances() if 2 * step >= self.settings.steps else None)
            seen.append(self._step(step))
            if (step + 1) % self.settings.steps_per_epoch == 0 or step + 1 == self.settings.steps:
                history.append({name: float(np.mean([values[name] for values in seen])) for name in seen[0]})
                seen = []
                on_epoch(len(history), history[-1])
        return history

    def _distances(self) -> Callable[[np.ndarray], np.ndarray]:
        """Distances of some codes to all as the model has them now, block by block of rows."""
        with torch.no_grad():
            self.model.eval()
            points, curvature = self.model(self.fit.graph)[self.kept], self.model.curvature
            self.model.train()

        def rows(codes: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return distances_between(points[codes], points, curvature=float(curvature)).cpu().numpy()

        return rows

    def _step(self, step: int) -> dict[str, float]:
        self.optimizer.zero_grad()
        weights = {name: float(torch.exp(-value.detach())) for name, value in self.log_variance.items()}
        points, curvature = self.model(self.fit.graph), self.model.curvature
        leaf, leaf_curvature = points[self.kept].detach().requires_grad_(), curvature.detach().requires_grad_()
        values = self._backward(leaf, leaf_curvature, weights)
        rate = float(self.schedule.get_last_lr()[0])
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"refinement stopped at step {step}: the term '{name}' is {value} at learning rate {rate:.3g}. "
                    "Lower graph.learning_rate or graph.max_radius, or give that term a smaller weight."
                )
        torch.autograd.backward([points[self.kept], curvature], [leaf.grad, leaf_curvature.grad])
        if self.settings.weighting == "uncertainty":
            torch.stack([torch.exp(-s) * values[name] + s for name, s in self.log_variance.items()]).sum().backward()
        self.optimizer.step()
        self.schedule.step()
        total = math.fsum(weights[name] * value for name, value in values.items())
        logged = {f"weight_{name}": weight for name, weight in weights.items()}
        return {"loss": total, **values, **logged, "curvature": float(curvature.detach()), "learning_rate": rate}

    def _backward(self, points: Tensor, curvature: Tensor, weights: dict[str, float]) -> dict[str, float]:
        """Gradients of the weighted terms in the two leaves; the terms' values."""
        terms: dict[str, Tensor] = {}
        if "triplet" in weights:
            terms["triplet"] = triplet_loss(points, self.triplets, curvature=curvature)
        if "radius" in weights:
            terms["radius"] = radius_loss(lorentz.radius(points, curvature=curvature), self.level, 1.0)
        if terms:
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
        values = {name: float(term.detach()) for name, term in terms.items()}
        pair_weights = {name: weight for name, weight in weights.items() if name in PAIR_TERMS}
        return values | self.pairs.backward(points, curvature, pair_weights)


def text_distances_in_edges(text: Embeddings, tree: Tree) -> TextDistances:
    """The text model's distances in the unit of the tree's edges.

    An edge is as long as the s for which Σ (D / s - T)² / T over all pairs is least, 1 where there is no pair.
    """
    points, every = torch.from_numpy(text.points), np.arange(len(tree))
    total = squared = 0.0
    for rows in tree.row_blocks():
        distance = distances_between(points[rows], points, curvature=text.curvature).numpy()
        total += distance.sum()
        squared += (distance**2 / np.maximum(tree.tree_distance_of(rows[:, None], every), 1)).sum()
    return TextDistances(points, text.curvature, 1 / float(total / squared) if squared > 0 else 1.0)


def _held_out_metrics(fit: _Fit, points: np.ndarray, curvature: float) -> dict[str, float]:
    """How distances meet the tree's over the held-out pairs alone and over all others, after refinement and before."""
    if fit.held_out is None or not fit.held_out.any():
        return {}
    tree, every = fit.tree, np.arange(len(fit.tree))
    refined = TextDistances(torch.from_numpy(points), curvature, 1.0)
    sums = {(pairs, space): DistancesByStep() for pairs in ("held_out", "trained") for space in ("", "_text")}
    for rows in tree.row_blocks():
        columns = every[rows[0] :]
        above = columns > rows[:, None]
        steps, held_out = tree.tree_distance_of(rows[:, None], columns), fit.held_out[rows, rows[0] :]
        for space, distances in (("", refined), ("_text", fit.text_distances)):
            distance = distances.between(rows, columns).cpu().numpy()
            for pairs, chosen in (("held_out", above & held_out), ("trained", above & ~held_out)):
                sums[pairs, space].add(steps[chosen], distance[chosen])
    metrics = {"held_out_pairs": float(sums["held_out", ""].count.sum())}
    for (pairs, space), found in sums.items():
        metrics[f"{pairs}_pairs_correlation{space}"] = found.correlation()
        metrics[f"{pairs}_pairs_stress{space}"] = found.stress()
    return metrics


def _generalisation(fit: _Fit, seed: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """parent_retrieval@1 of codes that a second fit left out of all losses, beside those that it kept, and its hits.

    A left-out code has no offset; its text and its place in the graph are all that reaches the model.
    """
    tree, settings = fit.tree, fit.settings
    deepest = np.flatnonzero(tree.level == tree.level.max())
    count = round(settings.left_out_fraction * len(deepest))
    if count == 0 or tree.level.max() == tree.level.min():
        return {}, {}
    left_out = np.sort(np.random.default_rng(seed).choice(deepest, count, replace=False))
    kept = np.setdiff1d(np.arange(len(tree)), left_out)
    points, curvature, _ = fit.run(kept, seed)
    rest = np.setdiff1d(deepest, left_out)
    spaces = {
        "text": (fit.text.points, fit.text.curvature),
        "smoothed": (smooth(fit.text, tree, settings.smoothing_rounds), fit.text.curvature),
        "refined": (points, curvature),
    }
    hits = {}
    for space, (x, c) in spaces.items():
        hits[f"left_out_parent_retrieval@1_{space}"] = parent_hits(x, c, tree, left_out)
        hits[f"kept_parent_retrieval@1_{space}"] = parent_hits(x, c, tree, rest)
    shares = {name: float(found.mean()) if found.size else math.nan for name, found in hits.items()}
    return {"left_out_codes": float(count), **shares}, hits


def parent_hits(points: np.ndarray, curvature: float, tree: Tree, codes: np.ndarray) -> np.ndarray:
    """(n,) bool: of which codes the nearest code one level up is their parent; only children do not count.

    Args:
        codes: indices, all of one level.
    """
    siblings = np.bincount(tree.parent[tree.parent >= 0], minlength=len(tree))
    codes = codes[siblings[tree.parent[codes]] > 1]
    if not codes.size:
        return np.empty(0, dtype=bool)
    above = np.flatnonzero(tree.level == tree.level[codes[0]] - 1)
    x = torch.from_numpy(points)
    blocks = np.array_split(codes, -(-len(codes) * len(above) // BLOCK_ENTRIES))
    nearest = np.concatenate(
        [lorentz.pairwise_distance(x[rows], x[above], curvature=curvature).argmin(dim=1).numpy() for rows in blocks]
    )
    return np.asarray(above[nearest] == tree.parent[codes])
