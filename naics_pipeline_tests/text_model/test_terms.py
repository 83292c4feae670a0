"""Each term of the objective alone, as a function of a view: its value, its gradient, and where it is least."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.settings import Objective as Weights
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.losses import LOSSES, rank
from naics_pipeline.text_model.losses.attraction import attraction_loss
from naics_pipeline.text_model.losses.retention import retention_loss
from naics_pipeline.text_model.losses.view import CodePairs, Neighbours, Queries, Suspects, TreeTensors, View
from naics_pipeline.text_model.objective import Objective

TREE = Tree.from_codes(["11", "111", "1111", "11111", "111110", "111111", "21", "211", "2111", "21111", "211110"])
N = len(TREE)
ALL_ON = Weights(**dict.fromkeys(LOSSES, 1.0))


class Lorentz:
    """The space of the text model, without a model."""

    def distances(self, u: Tensor, v: Tensor) -> Tensor:
        return lorentz.pairwise_distance(u, v)

    def text_distances(self, u: Tensor, direction: Tensor) -> Tensor:
        return lorentz.sphere_distance(u, direction)

    def paired_distances(self, u: Tensor, v: Tensor) -> Tensor:
        return lorentz.distance(u, v)

    def radii(self, points: Tensor) -> Tensor:
        return lorentz.radius(points)


def rotated(tangents: Tensor) -> Tensor:
    return tangents @ torch.linalg.qr(torch.randn(tangents.shape[1], tangents.shape[1], dtype=tangents.dtype))[0]


def view_of(tangents: Tensor, gate: Tensor | None = None, mode: str = "attract") -> View:
    """Of codes at these tangent vectors (N, d), with the last three vectors as queries."""
    none = np.zeros((N, N), dtype=bool)
    tree = TreeTensors(TREE, none, np.zeros(N, dtype=bool))
    points = lorentz.exp0(tangents)
    leaf = torch.tensor([4, 5, 10])
    return View(
        space=Lorentz(),
        tree=tree,
        points=points[:N],
        gate=gate,
        pairs=CodePairs(torch.tensor([4, 3]), torch.tensor([5, 4]), torch.tensor([[0, 10], [6, 7]]), torch.arange(N)),
        queries=Queries(
            points[N:],
            leaf,
            torch.tensor([-1, 10, -1]),
            tuned=normalize(tangents[N:], dim=-1),
            base=normalize(tangents[:3], dim=-1),
        ),
        rows=torch.arange(N),
        counted=torch.ones(N, N, dtype=torch.bool),
        spread=torch.arange(N),
        unseen=None,
        suspects=Suspects(torch.tensor([0, 1, 1, 2, 3, 3, 4, 2, 5, 5, 3]), mode),
        # The codes' own directions as texts, and the queries, which do not see themselves.
        neighbours=Neighbours(
            normalize(tangents, dim=-1),
            torch.cat([torch.arange(N), leaf]),
            torch.tensor([N, N + 1, N + 2]),
            torch.tensor([0, 1, 2]),
        ),
    )


def tangents(seed: int = 0) -> Tensor:
    return torch.randn(N + 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gates(seed: int = 0) -> Tensor:
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


@pytest.fixture
def objective() -> Objective:
    return Objective(ALL_ON, Model()).double()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_each_term_is_that_of_finite_differences(objective: Objective, name: str) -> None:
    def value(x: Tensor, logits: Tensor) -> Tensor:
        return LOSSES[name](view_of(x, logits.softmax(-1)), objective)

    x, logits = tangents().requires_grad_(), torch.randn(N, 4, dtype=torch.float64).requires_grad_()
    if name == "rank":
        # Δ counts as constant: a step too small to change an order changes it not at all.
        found = torch.autograd.grad(value(x, logits), x)[0]
        assert found[:N].abs().sum(1).min() > 0
        assert torch.isfinite(found).all()
        return
    if name == "balance":
        # The counted shares are without gradient.
        assert torch.autograd.gradcheck(lambda logits: value(x.detach(), logits), logits)
        return
    assert torch.autograd.gradcheck(lambda x: value(x, logits.detach()), x)


@pytest.mark.parametrize("name", LOSSES)
def test_a_rotation_of_the_space_changes_no_term(objective: Objective, name: str) -> None:
    x = tangents()
    before, after = (LOSSES[name](view_of(points, gates()), objective) for points in (x, rotated(x)))
    torch.testing.assert_close(before, after, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_lowers_each_term(objective: Objective, name: str) -> None:
    # Far from balance: of a router that is nearly balanced the counted shares jump by more than a descent wins.
    logits = (torch.randn(N, 4, dtype=torch.float64) + torch.tensor([2, 0, 0, 0])).requires_grad_()
    x = tangents(1).requires_grad_()
    optimizer, values = torch.optim.Adam([x, logits], lr=0.02), []
    for _ in range(60):
        value = LOSSES[name](view_of(x, logits.softmax(-1)), objective)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < values[0] - 1e-3


def test_the_objective_is_the_weighted_sum_of_what_has_a_weight() -> None:
    weights = Weights(**dict.fromkeys(LOSSES, 0.0) | {"rank": 2.0, "radius": 0.5})
    objective = Objective(weights, Model()).double()
    view = view_of(tangents(), gates())
    terms = objective(view)
    assert list(terms) == ["rank", "radius"]
    expected = 2 * LOSSES["rank"](view, objective) + 0.5 * LOSSES["radius"](view, objective)
    torch.testing.assert_close(objective.total(terms), expected)


def test_a_view_without_pairs_queries_or_gate_has_no_such_terms(objective: Objective) -> None:
    view = replace(view_of(tangents()), pairs=None, queries=None)
    assert set(objective(view)) == {"hierarchy", "rank", "radius"}


# LambdaRank


def slow_rank(scores: Tensor, gains: Tensor, counted: Tensor, k: int) -> Tensor:
    """Pair by pair, from the definition."""
    total, lists = 0.0, 0
    for s, g, c in zip(scores.tolist(), gains.tolist(), counted.tolist(), strict=True):
        items = [i for i in range(len(s)) if c[i]]
        order = sorted(items, key=lambda i: -s[i])
        discount = {i: 1 / math.log2(p + 2) if p < k else 0.0 for p, i in enumerate(order)}
        best = sum(g[i] / math.log2(p + 2) for p, i in enumerate(sorted(items, key=lambda i: -g[i])[:k]))
        if best == 0:
            continue
        lists += 1
        for i, j in itertools.permutations(items, 2):
            if g[i] > g[j]:
                change = abs((g[i] - g[j]) * (discount[i] - discount[j])) / best
                total += change * math.log1p(math.exp(-(s[i] - s[j])))
    return torch.tensor(total / max(1, lists), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_the_rank_loss_is_lambdarank_pair_by_pair(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.randn(6, 14, generator=generator, dtype=torch.float64)
    gains = torch.randint(0, 5, (6, 14), generator=generator).double()
    gains[0] = 0
    counted = torch.rand(6, 14, generator=generator) < 0.8
    found = rank.rank_loss(scores, gains, counted, k)
    torch.testing.assert_close(found, slow_rank(scores, gains, counted, k))


def test_the_rank_loss_of_two_codes_by_hand() -> None:
    # One code of gain 2 stands behind one of gain 1; the best order gives 2 + 1 / log2(3).
    change = (2 - 1) * (1 - 1 / math.log2(3)) / (2 + 1 / math.log2(3))
    found = rank.rank_loss(torch.tensor([[0.5, 1.5]]), torch.tensor([[2.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert found.item() == pytest.approx(change * math.log1p(math.exp(1.0)), rel=1e-5)


def test_an_order_that_is_right_by_a_wide_margin_costs_nothing() -> None:
    gains = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert rank.rank_loss(100 * gains, gains, torch.ones(1, 4, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-12)


# False negatives


def test_suspects_are_no_negatives_and_the_sure_ones_are_pulled(objective: Objective) -> None:
    x = tangents()
    whole = replace(view_of(x), suspects=None)
    # Of the first pair the second negative is in its anchor's cluster; of the second pair likewise.
    fewer = replace(whole, pairs=replace(whole.pairs, negative=torch.tensor([[0, 0], [6, 6]])))
    suspicious = view_of(x, mode="eliminate")
    one = LOSSES["contrastive"](fewer, objective) - math.log(2)
    torch.testing.assert_close(LOSSES["contrastive"](suspicious, objective), one)
    assert LOSSES["attraction"](suspicious, objective) is None
    points = whole.points
    distance = lorentz.distance(points[[4, 3]], points[[10, 7]])
    attracted = LOSSES["attraction"](view_of(x, mode="attract"), objective)
    torch.testing.assert_close(attracted, distance.mean() / objective.scale)
    sure = distance < lorentz.distance(points[[4, 3]], points[[5, 4]])
    hybrid = LOSSES["attraction"](view_of(x, mode="hybrid"), objective)
    torch.testing.assert_close(hybrid, (distance * sure).sum() / max(1, int(sure.sum())) / objective.scale)


def test_an_anchor_of_suspects_alone_has_no_contrastive_term(objective: Objective) -> None:
    view = view_of(tangents())
    all_one = replace(view, suspects=Suspects(torch.zeros(N, dtype=torch.long), "eliminate"))
    assert LOSSES["contrastive"](all_one, objective) is None


def test_attraction_is_the_mean_distance_of_the_sure_in_edges() -> None:
    distance, sure = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True])
    assert attraction_loss(distance, sure, 0.5).item() == pytest.approx(7.0)
    assert attraction_loss(torch.zeros(3), sure, 0.5).item() == 0
    assert attraction_loss(distance, torch.zeros(3, dtype=torch.bool), 0.5).item() == 0


def test_retention_is_how_far_texts_have_turned_away_from_the_base(objective: Objective) -> None:
    base = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert retention_loss(base, base).item() == pytest.approx(0, abs=1e-6)
    assert retention_loss(torch.tensor([[0.0, 1.0], [0.6, 0.8]]), base).item() == pytest.approx(0.5)
    view = view_of(tangents())
    known = replace(view, queries=replace(view.queries, tuned=None))
    assert LOSSES["retention"](known, objective) is None


def test_the_tree_itself_is_where_hierarchy_is_least() -> None:
    steps = torch.from_numpy(TREE.tree_distance().astype(np.float64))

    class Perfect(Lorentz):
        def distances(self, u: Tensor, v: Tensor) -> Tensor:
            return steps * 3.0

    objective = Objective(ALL_ON, Model(edge_length=3.0)).double()
    view = replace(view_of(tangents()), space=Perfect())
    assert LOSSES["hierarchy"](view, objective).item() == pytest.approx(0, abs=1e-12)
