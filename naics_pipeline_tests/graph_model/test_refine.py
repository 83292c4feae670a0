"""Refinement as a whole, on a small tree: what it must improve, repeat, refuse and report."""

import math

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError, TrainingError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.graph import build_graph
from naics_pipeline.graph_model.module import HyperbolicGCN
from naics_pipeline.graph_model.objective import Pairs, adaptive_margin, triplet_loss
from naics_pipeline.graph_model.refine import Refinement, aligned, refine
from naics_pipeline.graph_model.sampling import Triplets
from naics_pipeline.graph_model.smoothing import smooth
from naics_pipeline.settings import Graph, GraphObjective
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

QUICK = Graph(steps=40, steps_per_epoch=10, left_out_fraction=0.2, dropout=0.0)


def _tree(sectors: int = 3) -> Tree:
    codes = ["11", "22", "31"][:sectors]
    for level in range(3, 7):
        above = [code for code in codes if len(code) == level - 1]
        codes += [code + digit for code in above for digit in ("12" if level < 6 else "123")]
    return Tree.from_codes(codes)


def _text(tree: Tree, *, dim: int = 8, noise: float = 0.7, curvature: float = 1.0) -> Embeddings:
    """Points that know the tree, under noise: each code's step away from its parent, and some of its own."""
    random = np.random.default_rng(0)
    steps = random.normal(size=(len(tree), dim))
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.vstack([steps, np.zeros((1, dim))])
    v = steps[tree.ancestors()].sum(axis=1) + noise * random.normal(size=(len(tree), dim)) / math.sqrt(dim)
    points = lorentz.exp0(torch.from_numpy(v) / math.sqrt(curvature), curvature=curvature).numpy()
    return Embeddings(tree.codes, points, curvature)


def _correlation(points: np.ndarray, curvature: float, tree: Tree) -> float:
    x = torch.from_numpy(points)
    above = np.triu_indices(len(tree), k=1)
    distance = lorentz.pairwise_distance(x, x, curvature=curvature).numpy()[above]
    return float(np.corrcoef(distance, tree.tree_distance()[above])[0, 1])


def _excluded(tree: Tree) -> np.ndarray:
    return np.zeros((len(tree), len(tree)), dtype=bool)


def _refine(text: Embeddings, tree: Tree, settings: Graph = QUICK, seed: int = 1) -> Refinement:
    return refine(text, tree, _excluded(tree), settings, seed=seed, accelerator="cpu")


@pytest.fixture(scope="module")
def tree() -> Tree:
    return _tree()


@pytest.fixture(scope="module")
def refined(tree: Tree) -> Refinement:
    return _refine(_text(tree), tree)


def test_refinement_brings_distances_closer_to_the_tree_than_text_and_smoothing(
    tree: Tree, refined: Refinement
) -> None:
    text = _text(tree)
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
    first, again, other = (_refine(_text(tree), tree, settings, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)
    torch.testing.assert_close(torch.rand(3), expected)


def test_every_term_is_reported_for_every_epoch(tree: Tree) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    settings = QUICK.model_copy(update={"steps": 25, "left_out_fraction": 0.0})
    result = refine(
        _text(tree),
        tree,
        _excluded(tree),
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
    history = _refine(_text(tree), tree, QUICK.model_copy(update={"steps": 2, "objective": objective})).history
    assert {"radius", "stress"} <= history[0].keys()
    assert not {"triplet", "retention"} & history[0].keys()


def test_uncertainty_weighting_moves_the_weights(tree: Tree) -> None:
    settings = QUICK.model_copy(update={"weighting": "uncertainty", "left_out_fraction": 0.0})
    history = _refine(_text(tree), tree, settings).history
    assert history[0]["weight_stress"] != history[-1]["weight_stress"]
    fixed = _refine(_text(tree), tree, QUICK.model_copy(update={"steps": 20})).history
    assert fixed[0]["weight_stress"] == fixed[-1]["weight_stress"] == pytest.approx(QUICK.objective.stress)


def test_left_out_codes_are_reported_beside_the_rest(tree: Tree, refined: Refinement) -> None:
    assert refined.metrics["left_out_codes"] == round(0.2 * (tree.level == 6).sum())
    for space in ("text", "smoothed", "refined"):
        assert 0 <= refined.metrics[f"left_out_parent_retrieval@1_{space}"] <= 1
    assert refined.metrics["kept_parent_retrieval@1_refined"] > refined.metrics["kept_parent_retrieval@1_text"]


def test_no_loss_reaches_a_code_that_is_left_out(tree: Tree) -> None:
    """Its offset gets no gradient, though its neighbours hear it."""
    text = torch.from_numpy(_text(tree).points)
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
    text = torch.from_numpy(_text(tree).points)
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
    one = _refine(_text(tree), tree, settings)
    four = _refine(_text(tree, curvature=4.0), tree, settings)
    assert four.curvature == pytest.approx(one.curvature, rel=1e-3)
    np.testing.assert_allclose(four.points, one.points, rtol=1e-3, atol=1e-3)


def test_rows_in_another_order_change_nothing(tree: Tree) -> None:
    text = _text(tree)
    order = np.random.default_rng(1).permutation(len(tree))
    shuffled = Embeddings(text.codes[order], text.points[order], 1.0)
    np.testing.assert_array_equal(aligned(shuffled, tree).points, text.points)


@pytest.mark.parametrize(
    "codes", [["11", "111", "1111", "11111", "111110"], ["11", "111", "112"], ["11", "21"], ["11"]]
)
def test_small_taxonomies_are_refined_without_what_they_do_not_define(codes: list[str]) -> None:
    tree = Tree.from_codes(codes)
    result = _refine(_text(tree), tree, QUICK.model_copy(update={"steps": 3}))
    assert np.isfinite(result.points).all()


def test_one_sector_is_refined() -> None:
    tree = _tree(sectors=1)
    text = _text(tree)
    result = _refine(text, tree)
    assert _correlation(result.points, result.curvature, tree) > _correlation(text.points, 1.0, tree)


def test_a_loss_that_is_not_finite_stops_at_once_and_says_where(tree: Tree) -> None:
    text = _text(tree)
    text.points[4] = np.nan
    with pytest.raises(TrainingError, match=r"step 0.*'\w+' is nan.*learning rate"):
        _refine(text, tree)


def test_euclidean_embeddings_and_other_taxonomies_are_refused(tree: Tree) -> None:
    with pytest.raises(ModelError, match=r"model\.geometry"):
        aligned(Embeddings(tree.codes, np.zeros((len(tree), 3)), geometry="euclidean"), tree)
    with pytest.raises(ModelError, match="materialize text_embeddings"):
        aligned(_text(_tree(sectors=2)), tree)


def test_pair_terms_and_their_gradient_equal_one_matrix_expression(tree: Tree) -> None:
    text = _text(tree)
    kept = np.arange(0, len(tree), 2)
    x = torch.from_numpy(text.points)
    text_distance = lorentz.pairwise_distance(x, x).numpy()
    pairs = Pairs.of(tree, text_distance, kept, torch.device("cpu"))
    weights = {"stress": 0.7, "retention": 0.3}

    blockwise = x[kept].clone().requires_grad_()
    values = pairs.backward(blockwise, torch.tensor(1.0, requires_grad=True), weights)

    whole = x[kept].clone().requires_grad_()
    first, second = np.triu_indices(len(kept), k=1)
    distance = lorentz.distance(whole[first], whole[second])
    steps = torch.from_numpy(tree.tree_distance()[np.ix_(kept, kept)][first, second].astype(np.float64))
    same = torch.from_numpy(tree.sector[kept][first] == tree.sector[kept][second])
    stress = ((distance - steps).square() / steps).mean()
    before = torch.from_numpy(text_distance[np.ix_(kept, kept)][first, second])
    retention = (distance - before).square()[same].mean()
    (0.7 * stress + 0.3 * retention).backward()
    assert values["stress"] == pytest.approx(float(stress), rel=1e-5)
    assert values["retention"] == pytest.approx(float(retention), abs=1e-9)
    torch.testing.assert_close(blockwise.grad, whole.grad, rtol=1e-4, atol=1e-8)


def test_triplet_loss_by_hand() -> None:
    points = lorentz.exp0(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]], dtype=torch.float64))
    triplets = Triplets(np.array([0]), np.array([1]), np.array([[2, 0]]), np.array([[True, False]]))
    margin = 1 + 0.5 * (1 - math.tanh(1 / 4)) + 0.2 * (1 - math.tanh(1 / 6))
    loss = triplet_loss(points, triplets, curvature=torch.tensor(1.0))
    assert float(loss) == pytest.approx(max(0.0, 1 - 3 + margin), abs=1e-9)
    closer = Triplets(np.array([0]), np.array([2]), np.array([[1]]), np.array([[True]]))
    margin = 1 + 0.5 * (1 - math.tanh(3 / 4)) + 0.2 * (1 - math.tanh(1 / 6))
    assert float(triplet_loss(points, closer, curvature=torch.tensor(1.0))) == pytest.approx(3 - 1 + margin)


def test_the_margin_shrinks_with_distance_and_radius_within_its_bounds() -> None:
    zero, far = torch.tensor(0.0), torch.tensor(50.0)
    assert float(adaptive_margin(zero, zero)) == pytest.approx(1.7)
    assert float(adaptive_margin(far, far)) == pytest.approx(1.0)
    assert not adaptive_margin(zero.requires_grad_(), far).requires_grad


def test_smoothing_is_the_centroid_of_self_parent_and_children() -> None:
    tree = Tree.from_codes(["11", "111", "112", "21"])
    text = _text(tree)
    x = torch.from_numpy(text.points)
    smoothed = torch.from_numpy(smooth(text, tree, 1))
    torch.testing.assert_close(smoothed[0], lorentz.centroid(x[[0, 1, 2]], torch.ones(3, dtype=torch.float64)))
    torch.testing.assert_close(smoothed[1], lorentz.centroid(x[[0, 1]], torch.ones(2, dtype=torch.float64)))
    torch.testing.assert_close(smoothed[3], x[3])
    twice = smooth(text, tree, 2)
    np.testing.assert_allclose(twice, smooth(Embeddings(tree.codes, smoothed.numpy()), tree, 1))
