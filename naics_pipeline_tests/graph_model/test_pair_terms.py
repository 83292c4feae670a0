"""The terms over pairs of codes, whole, in blocks and by samples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model import refine as refine_module
from naics_pipeline.graph_model.graph import build_graph
from naics_pipeline.graph_model.objective import PairTerms, TextDistances
from naics_pipeline.graph_model.refine import parent_hits, refine, text_distances_in_edges
from naics_pipeline.taxonomy.tree import Tree, held_out_pairs
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.graph_model.small import QUICK, no_exclusions, text_of


def _pairs(
    tree: Tree, text: Embeddings, kept: np.ndarray, pairs_per_step: int, held_out: np.ndarray | None
) -> PairTerms:
    distances = TextDistances(torch.from_numpy(text.points), 1.0, 1.0)
    cpu = torch.device("cpu")
    return PairTerms(tree, distances, kept, cpu, pairs_per_step=pairs_per_step, seed=0, held_out=held_out)


def _pair_terms(x: Tensor, tree: Tree, text: Embeddings, kept: np.ndarray, seen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Stress and retention of the points x of the kept codes, pair by pair."""
    first, second = np.nonzero(np.triu(seen[np.ix_(kept, kept)], k=1))
    distance = lorentz.distance(x[first], x[second])
    steps = torch.from_numpy(tree.tree_distance()[np.ix_(kept, kept)][first, second].astype(np.float64))
    same = torch.from_numpy(tree.sector[kept][first] == tree.sector[kept][second])
    before = torch.from_numpy(text.points)[kept]
    change = distance - lorentz.distance(before[first], before[second])
    return ((distance - steps).square() / steps).mean(), change.square()[same].mean()


@pytest.mark.parametrize("share", [None, 0.3])
def test_pair_terms_and_their_gradient_equal_one_expression_over_the_pairs_not_held_out(
    tree: Tree, share: float | None
) -> None:
    text, kept = text_of(tree), np.arange(0, len(tree), 2)
    held_out = None if share is None else held_out_pairs(tree, share)
    moved = torch.from_numpy(text_of(tree, noise=1.0).points)[kept]
    weights = {"stress": 0.7, "retention": 0.3}

    blockwise = moved.clone().requires_grad_()
    pairs = _pairs(tree, text, kept, 10**6, held_out)
    values = pairs.backward(blockwise, torch.tensor(1.0, requires_grad=True), weights)

    whole = moved.clone().requires_grad_()
    seen = np.ones_like(no_exclusions(tree)) if held_out is None else ~held_out
    stress, retention = _pair_terms(whole, tree, text, kept, seen)
    (0.7 * stress + 0.3 * retention).backward()
    assert values["stress"] == pytest.approx(float(stress.detach()), rel=1e-5)
    assert values["retention"] == pytest.approx(float(retention.detach()), rel=1e-5)
    torch.testing.assert_close(blockwise.grad, whole.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("share", [None, 0.3])
def test_sampled_pair_terms_and_their_gradient_are_on_average_those_of_all_pairs(
    tree: Tree, share: float | None
) -> None:
    text, kept = text_of(tree), np.arange(0, len(tree), 2)
    held_out = None if share is None else held_out_pairs(tree, share)
    moved = torch.from_numpy(text_of(tree, noise=1.0).points)[kept]
    weights = {"stress": 0.7, "retention": 0.3}

    def gradient(pairs: PairTerms, steps: int) -> tuple[Tensor, dict[str, float]]:
        x, values = moved.clone().requires_grad_(), dict.fromkeys(weights, 0.0)
        for _ in range(steps):
            seen = pairs.backward(x, torch.tensor(1.0, requires_grad=True), weights)
            values = {name: value + seen[name] / steps for name, value in values.items()}
        assert x.grad is not None
        return x.grad / steps, values

    sampled = _pairs(tree, text, kept, len(kept) - 1, held_out)
    assert sampled.sample == 1
    each = iter(range(len(kept)))

    class EachInTurn:
        def choice(self, codes: int, size: int, *, replace: bool) -> np.ndarray:
            return np.array([next(each)])

    sampled.random = EachInTurn()
    found, values = gradient(sampled, len(kept))
    expected, whole = gradient(_pairs(tree, text, kept, 10**6, held_out), 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert values == pytest.approx(whole, rel=1e-5)


def test_with_every_pair_held_out_no_term_but_the_radius_is_left(tree: Tree) -> None:
    held_out = np.ones_like(no_exclusions(tree))
    settings = QUICK.model_copy(update={"steps": 4, "steps_per_epoch": 1})
    history = refine(
        text_of(tree), tree, no_exclusions(tree), settings, seed=1, accelerator="cpu", held_out=held_out
    ).history
    assert len(history) == 4
    for values in history:
        assert values["stress"] == values["retention"] == values["triplet"] == 0
        assert values["radius"] > 0


def test_what_is_formed_in_blocks_does_not_depend_on_their_size(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(tree)
    graph, distances, held_out = (
        build_graph(tree, QUICK),
        text_distances_in_edges(text, tree),
        held_out_pairs(tree, 0.1),
    )
    leaves = np.flatnonzero(tree.level == 6)
    parents = parent_hits(text.points, 1.0, tree, leaves)
    whole = Tree.row_blocks
    monkeypatch.setattr(Tree, "row_blocks", lambda self: whole(self, 10 * len(self)))
    monkeypatch.setattr(refine_module, "BLOCK_ENTRIES", 200)
    again = build_graph(tree, QUICK)
    order, order_again = (np.lexsort((*g.edge_index.numpy(), g.role.numpy())) for g in (graph, again))
    np.testing.assert_array_equal(graph.edge_index[:, order], again.edge_index[:, order_again])
    np.testing.assert_array_equal(held_out_pairs(tree, 0.1), held_out)
    assert text_distances_in_edges(text, tree).edge_length == pytest.approx(distances.edge_length, rel=1e-12)
    np.testing.assert_array_equal(parent_hits(text.points, 1.0, tree, leaves), parents)
