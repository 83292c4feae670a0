"""Refinement as a whole, on a small tree: what it must improve, repeat, refuse and report."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError, TrainingError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.graph import build_graph
from naics_pipeline.graph_model.module import HyperbolicGCN
from naics_pipeline.graph_model.objective import adaptive_margin, triplet_loss
from naics_pipeline.graph_model.refine import Refinement, refine
from naics_pipeline.graph_model.sampling import Triplets
from naics_pipeline.graph_model.smoothing import smooth
from naics_pipeline.settings import Graph, GraphObjective
from naics_pipeline.taxonomy.tree import Tree, held_out_pairs
from naics_pipeline.text_model.embeddings import Embeddings, aligned
from naics_pipeline_tests.evaluation.trees import balanced_tree
from naics_pipeline_tests.evaluation.trees import peak_memory as peak_memory
from naics_pipeline_tests.graph_model.small import QUICK, no_exclusions, small_tree, text_of


def _correlation(points: np.ndarray, curvature: float, tree: Tree) -> float:
    x = torch.from_numpy(points)
    above = np.triu_indices(len(tree), k=1)
    distance = lorentz.pairwise_distance(x, x, curvature=curvature).numpy()[above]
    return float(np.corrcoef(distance, tree.tree_distance()[above])[0, 1])


def _refine(text: Embeddings, tree: Tree, settings: Graph = QUICK, seed: int = 1) -> Refinement:
    return refine(text, tree, no_exclusions(tree), settings, seed=seed, accelerator="cpu")


@pytest.fixture(scope="module")
def refined(tree: Tree) -> Refinement:
    return _refine(text_of(tree), tree)


def test_refinement_brings_distances_closer_to_the_tree_than_text_and_smoothing(
    tree: Tree, refined: Refinement
) -> None:
    text = text_of(tree)
    after = _correlation(refined.points, refined.curvature, tree)
    assert after > _correlation(text.points, 1.0, tree) + 0.1
    assert after > _correlation(smooth(text, tree, 2), 1.0, tree)
    assert after > 0.95


def test_refined_points_lie_on_the_hyperboloid_and_children_farther_out(tree: Tree, refined: Refinement) -> None:
    points = torch.from_numpy(refined.points)
    assert float(lorentz.violation(points, curvature=refined.curvature).max()) < 1e-9
    radius = lorentz.radius(points, curvature=refined.curvature).numpy()
    child = tree.parent >= 0
    assert (radius[child] > radius[tree.parent[child]]).mean() > 0.95


def test_the_codes_of_a_level_lie_on_one_sphere_each_level_on_its_own(tree: Tree, refined: Refinement) -> None:
    radius = lorentz.radius(torch.from_numpy(refined.points), curvature=refined.curvature).numpy()
    levels = [radius[tree.level == level] for level in range(2, 7)]
    for here in levels:
        np.testing.assert_allclose(here, here[0], rtol=1e-9)
    assert np.diff([here[0] for here in levels]).min() > 0.5


def test_the_same_seed_gives_the_same_points_and_leaves_the_global_generator_alone(tree: Tree) -> None:
    settings = QUICK.model_copy(update={"steps": 6, "dropout": 0.1, "left_out_fraction": 0.0})
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, again, other = (_refine(text_of(tree), tree, settings, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)
    torch.testing.assert_close(torch.rand(3), expected)


def test_no_sum_of_a_fit_is_left_to_the_order_of_threads(tree: Tree) -> None:
    reproducible: list[bool] = []
    refine(
        text_of(tree),
        tree,
        no_exclusions(tree),
        QUICK.model_copy(update={"steps": 1, "left_out_fraction": 0.0}),
        seed=1,
        accelerator="cpu",
        on_epoch=lambda epoch, values: reproducible.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert reproducible == [True]


def test_every_term_is_reported_for_every_epoch(tree: Tree) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    settings = QUICK.model_copy(update={"steps": 25, "left_out_fraction": 0.0})
    result = refine(
        text_of(tree),
        tree,
        no_exclusions(tree),
        settings,
        seed=1,
        accelerator="cpu",
        on_epoch=lambda epoch, values: seen.append((epoch, values)),
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert [values for _, values in seen] == result.history
    for values in result.history:
        assert {"loss", "triplet", "radius", "stress", "retention", "curvature", "learning_rate"} <= values.keys()


def test_a_term_of_weight_0_is_not_computed(tree: Tree) -> None:
    objective = GraphObjective(triplet=0, retention=0)
    history = _refine(text_of(tree), tree, QUICK.model_copy(update={"steps": 2, "objective": objective})).history
    assert {"radius", "stress"} <= history[0].keys()
    assert not {"triplet", "retention"} & history[0].keys()


def test_uncertainty_weighting_moves_the_weights(tree: Tree) -> None:
    settings = QUICK.model_copy(update={"weighting": "uncertainty", "left_out_fraction": 0.0})
    history = _refine(text_of(tree), tree, settings).history
    assert history[0]["weight_stress"] != history[-1]["weight_stress"]
    fixed = _refine(text_of(tree), tree, QUICK.model_copy(update={"steps": 20})).history
    assert fixed[0]["weight_stress"] == fixed[-1]["weight_stress"] == pytest.approx(QUICK.objective.stress)


def test_left_out_codes_are_reported_beside_the_rest(tree: Tree, refined: Refinement) -> None:
    assert refined.metrics["left_out_codes"] == round(0.2 * (tree.level == 6).sum())
    for space in ("text", "smoothed", "refined"):
        hits = refined.hits[f"left_out_parent_retrieval@1_{space}"]
        assert refined.metrics[f"left_out_parent_retrieval@1_{space}"] == hits.mean()
    assert refined.metrics["kept_parent_retrieval@1_refined"] > refined.metrics["kept_parent_retrieval@1_text"]


def test_no_loss_reaches_a_code_that_is_left_out(tree: Tree) -> None:
    """Its offset gets no gradient, though its neighbours hear it."""
    text = torch.from_numpy(text_of(tree).points)
    with_offset = torch.ones(len(tree), dtype=torch.bool)
    with_offset[-1] = False
    ancestors = torch.from_numpy(tree.ancestors().astype(np.int64))
    settings = QUICK.model_copy(update={"offset_dropout": 0.0})
    level = torch.from_numpy(tree.level.astype(np.int64))
    model = HyperbolicGCN(lorentz.log0(text), 1.0, ancestors, level, with_offset, settings).double()
    points = model(build_graph(tree, settings))
    lorentz.distance(points[0], points[-2], curvature=model.curvature).backward()
    assert model.offsets.grad is not None
    assert float(model.offsets.grad[-1].abs().max()) == 0
    assert float(model.offsets.grad[-2].abs().max()) > 0
    assert float(model.offsets.grad[0].abs().max()) > 0
    assert float(model.curvature_logit.grad.abs()) > 0


@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_curvature_starts_where_told_and_stays_inside_its_bounds(tree: Tree, start: float) -> None:
    text = torch.from_numpy(text_of(tree).points)
    ancestors = torch.from_numpy(tree.ancestors().astype(np.int64))
    level = torch.from_numpy(tree.level.astype(np.int64))
    model = HyperbolicGCN(lorentz.log0(text), start, ancestors, level, torch.ones(len(tree), dtype=torch.bool), QUICK)
    assert float(model.curvature.detach()) == pytest.approx(start, rel=0.02)
    with torch.no_grad():
        model.curvature_logit += 100
    assert 0.1 <= float(model.curvature) <= 10


def test_text_of_another_curvature_refines_as_well(tree: Tree) -> None:
    """The same points in a space scaled by 1/2: only the unit of length differs."""
    settings = QUICK.model_copy(update={"steps": 20, "left_out_fraction": 0.0})
    one = _refine(text_of(tree), tree, settings)
    four = _refine(text_of(tree, curvature=4.0), tree, settings)
    assert four.curvature == pytest.approx(one.curvature, rel=1e-3)
    np.testing.assert_allclose(four.points, one.points, rtol=1e-3, atol=1e-3)


def test_rows_in_another_order_change_nothing(tree: Tree) -> None:
    text = text_of(tree)
    order = np.random.default_rng(1).permutation(len(tree))
    shuffled = Embeddings(text.codes[order], text.points[order], 1.0)
    np.testing.assert_array_equal(aligned(shuffled, tree).points, text.points)


@pytest.mark.parametrize(
    "codes", [["11", "111", "1111", "11111", "111110"], ["11", "111", "112"], ["11", "21"], ["11"]]
)
def test_small_taxonomies_are_refined_without_what_they_do_not_define(codes: list[str]) -> None:
    tree = Tree.from_codes(codes)
    result = _refine(text_of(tree), tree, QUICK.model_copy(update={"steps": 3}))
    assert np.isfinite(result.points).all()


def test_one_sector_is_refined() -> None:
    tree = small_tree(sectors=1)
    text = text_of(tree)
    result = _refine(text, tree)
    assert _correlation(result.points, result.curvature, tree) > _correlation(text.points, 1.0, tree)


def test_a_loss_that_is_not_finite_stops_at_once_and_says_where(tree: Tree) -> None:
    text = text_of(tree)
    text.points[4] = np.nan
    with pytest.raises(TrainingError, match=r"step 0.*'\w+' is nan.*learning rate"):
        _refine(text, tree)


def test_euclidean_embeddings_and_other_taxonomies_are_refused(tree: Tree) -> None:
    with pytest.raises(ModelError, match=r"model\.geometry"):
        _refine(Embeddings(tree.codes, np.zeros((len(tree), 3)), geometry="euclidean"), tree)
    with pytest.raises(ModelError, match="materialize text_embeddings"):
        aligned(text_of(small_tree(sectors=2)), tree)


def test_held_out_pairs_are_reported_beside_the_trained_ones(tree: Tree, refined: Refinement) -> None:
    assert not any("pairs" in name for name in refined.metrics)
    held_out = held_out_pairs(tree, 0.2)
    settings = QUICK.model_copy(update={"left_out_fraction": 0.0})
    text = text_of(tree)
    result = refine(text, tree, no_exclusions(tree), settings, seed=1, accelerator="cpu", held_out=held_out)
    x, above = torch.from_numpy(result.points), np.triu(np.ones_like(held_out), k=1)
    distance = lorentz.pairwise_distance(x, x, curvature=result.curvature).numpy()
    before = lorentz.pairwise_distance(torch.from_numpy(text.points), torch.from_numpy(text.points)).numpy()
    for name, chosen in (("held_out", above & held_out), ("trained", above & ~held_out)):
        d, t = distance[chosen], tree.tree_distance()[chosen].astype(float)
        assert result.metrics[f"{name}_pairs_correlation"] == pytest.approx(np.corrcoef(d, t)[0, 1])
        assert result.metrics[f"{name}_pairs_stress"] == pytest.approx(((d - t) ** 2 / t).mean())
        correlation = np.corrcoef(before[chosen], t)[0, 1]
        assert result.metrics[f"{name}_pairs_correlation_text"] == pytest.approx(correlation)
    assert result.metrics["held_out_pairs"] == (above & held_out).sum()
    assert result.metrics["held_out_pairs_correlation"] > result.metrics["held_out_pairs_correlation_text"] + 0.1


def test_free_radii_differ_within_a_level_and_still_grow_with_depth(tree: Tree) -> None:
    result = _refine(text_of(tree), tree, QUICK.model_copy(update={"radii": "free", "left_out_fraction": 0.0}))
    radius = lorentz.radius(torch.from_numpy(result.points), curvature=result.curvature).numpy()
    for level in range(2, 7):
        here = radius[tree.level == level]
        assert np.ptp(here) > 1e-3 * here.mean()
    child = tree.parent >= 0
    assert (radius[child] > radius[tree.parent[child]]).mean() > 0.95
    assert _correlation(result.points, result.curvature, tree) > 0.95


def test_a_sample_of_pairs_refines_too(tree: Tree) -> None:
    text = text_of(tree)
    result = _refine(text, tree, QUICK.model_copy(update={"pairs_per_step": 1000, "left_out_fraction": 0.0}))
    assert _correlation(result.points, result.curvature, tree) > _correlation(text.points, 1.0, tree) + 0.1


@pytest.mark.slow
def test_twenty_thousand_codes_are_refined_in_bounded_memory(peak_memory: Callable[[], float]) -> None:
    tree = balanced_tree(20_000)
    text = text_of(tree, dim=64)
    settings = Graph(steps=2, left_out_fraction=0)
    held_out = held_out_pairs(tree, 0.05)
    before = peak_memory()
    result = refine(text, tree, no_exclusions(tree), settings, seed=1, accelerator="cpu", held_out=held_out)
    assert peak_memory() - before < 6e9
    assert result.metrics["held_out_pairs"] == pytest.approx(0.05 * 2e8, rel=0.01)
    assert np.isfinite(result.points).all()


def test_triplet_loss_by_hand() -> None:
    points = lorentz.exp0(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]], dtype=torch.float64))
    triplets = Triplets(np.array([0]), np.array([1]), np.array([[2]]))
    margin = 1 + 0.5 * (1 - math.tanh(1 / 4)) + 0.2 * (1 - math.tanh(1 / 6))
    loss = triplet_loss(points, triplets, curvature=torch.tensor(1.0))
    assert float(loss) == pytest.approx(max(0.0, 1 - 3 + margin), abs=1e-9)
    closer = Triplets(np.array([0]), np.array([2]), np.array([[1]]))
    margin = 1 + 0.5 * (1 - math.tanh(3 / 4)) + 0.2 * (1 - math.tanh(1 / 6))
    assert float(triplet_loss(points, closer, curvature=torch.tensor(1.0))) == pytest.approx(3 - 1 + margin)


def test_the_margin_shrinks_with_distance_and_radius_within_its_bounds() -> None:
    zero, far = torch.tensor(0.0), torch.tensor(50.0)
    assert float(adaptive_margin(zero, zero)) == pytest.approx(1.7)
    assert float(adaptive_margin(far, far)) == pytest.approx(1.0)
    assert not adaptive_margin(zero.requires_grad_(), far).requires_grad


def test_smoothing_is_the_centroid_of_self_parent_and_children() -> None:
    tree = Tree.from_codes(["11", "111", "112", "21"])
    text = text_of(tree)
    x = torch.from_numpy(text.points)
    smoothed = torch.from_numpy(smooth(text, tree, 1))
    torch.testing.assert_close(smoothed[0], lorentz.centroid(x[[0, 1, 2]], torch.ones(3, dtype=torch.float64)))
    torch.testing.assert_close(smoothed[1], lorentz.centroid(x[[0, 1]], torch.ones(2, dtype=torch.float64)))
    torch.testing.assert_close(smoothed[3], x[3])
    twice = smooth(text, tree, 2)
    np.testing.assert_allclose(twice, smooth(Embeddings(tree.codes, smoothed.numpy()), tree, 1))
    flat = replace(text, points=text.points[:, 1:], geometry="euclidean")
    np.testing.assert_allclose(smooth(flat, tree, 1)[0], flat.points[[0, 1, 2]].mean(axis=0))
    np.testing.assert_allclose(smooth(flat, tree, 1)[3], flat.points[3])
