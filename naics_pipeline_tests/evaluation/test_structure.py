"""Structure metrics against definitions written out as loops, the published ceilings, and degenerate taxonomies."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from naics_pipeline.errors import ModelError
from naics_pipeline.evaluation import neighbours, structure
from naics_pipeline.evaluation.compare import gate
from naics_pipeline.evaluation.structure import (
    PointDistances,
    ceiling,
    code_scores,
    embedding_distances,
    evaluate_embeddings,
    structure_metrics,
)
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree, random_distances, random_tree
from naics_pipeline_tests.evaluation.trees import peak_memory as peak_memory

SMALL = Tree.from_codes(["11", "111", "112", "1111", "1112", "31", "321", "331"])


def mean_over_tie_orders(row: np.ndarray, others: list[int], score: Callable[[Sequence[int]], float]) -> float:
    """Mean of a score of an order of `others` over all orders that never put a farther one first."""
    orders = [order for order in permutations(others) if all(row[a] <= row[b] for a, b in pairwise(order))]
    return float(np.mean([score(order) for order in orders]))


def mean_where_defined(values: list[float]) -> float:
    return float(np.mean([value for value in values if not np.isnan(value)]))


def naive_neighbour_metrics(distances: np.ndarray, tree: Tree) -> dict[str, float]:
    """ndcg, purity, parents, children and siblings of a tiny tree, code by code, over every order of ties."""
    scores = [naive_scores_of_code(code, distances[code], tree) for code in range(len(tree))]
    names = {name for row in scores for name in row}
    return {name: mean_where_defined([row.get(name, np.nan) for row in scores]) for name in names}


def naive_scores_of_code(code: int, row: np.ndarray, tree: Tree) -> dict[str, float]:
    depth, parent = tree.lca_depth()[code].astype(float), tree.parent.tolist()
    others = [other for other in range(len(tree)) if other != code]

    def dcg(order: Sequence[int]) -> float:
        return sum(depth[other] / np.log2(rank + 2) for rank, other in enumerate(order[:5]))

    def purity(order: Sequence[int]) -> float:
        return float(np.mean([depth[other] > 0 for other in order[:10]]))

    def mean_hits(wanted: set[int], candidates: list[int], k: int) -> float:
        return mean_over_tie_orders(row, candidates, lambda order: len(wanted & set(order[:k])))

    def at(level: int) -> list[int]:
        return [other for other in others if tree.level[other] == level]

    level = int(tree.level[code])
    children = {other for other in others if parent[other] == code}
    siblings = {other for other in others if parent[other] == parent[code] >= 0}
    scores = {"sector_purity@10": mean_over_tie_orders(row, others, purity)}
    if depth[others].any():
        best = dcg(sorted(others, key=lambda other: -depth[other]))
        scores["ndcg@5"] = mean_over_tie_orders(row, others, dcg) / best
    if children:
        scores["child_recall@5"] = mean_hits(children, at(level + 1), 5) / len(children)
    if siblings:
        scores["sibling_precision@5"] = mean_hits(siblings, at(level), 5) / min(5, len(at(level)))
        scores["parent_retrieval@1"] = mean_hits({parent[code]}, at(level - 1), 1)
    return scores


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_count_as_the_mean_over_all_orders_of_ties(seed: int, ties: bool) -> None:
    distances = random_distances(np.random.default_rng(seed), len(SMALL), ties)
    expected = naive_neighbour_metrics(distances, SMALL)
    found = structure_metrics(distances, SMALL)
    assert len(expected) == 5
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_pair_metrics_are_those_of_reference_libraries(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    tree = random_tree(rng)
    distances = random_distances(rng, len(tree), ties)
    first, second = np.triu_indices(len(tree), 1)
    d, t = distances[first, second], tree.tree_distance()[first, second].astype(float)
    same = tree.sector[first] == tree.sector[second]
    found = structure_metrics(distances, tree)
    assert found["cophenetic_correlation"] == pytest.approx(np.corrcoef(d, t)[0, 1])
    assert found["cophenetic_correlation_within_sector"] == pytest.approx(np.corrcoef(d[same], t[same])[0, 1])
    assert found["spearman_correlation"] == pytest.approx(spearmanr(d, t).statistic)
    assert found["spearman_correlation_within_sector"] == pytest.approx(spearmanr(d[same], t[same]).statistic)
    assert found["sector_auc"] == pytest.approx(roc_auc_score(same, -d))
    errors = {scale: np.abs(d / scale - t) / t for scale in d / t}
    best = min(errors, key=lambda scale: errors[scale].mean())
    assert found["distortion_mean"] == pytest.approx(errors[best].mean())
    assert found["distortion_worst"] == pytest.approx((d / t).max() / (d / t).min())


@pytest.mark.parametrize("seed", range(3))
def test_edges_are_ranked_among_codes_that_are_no_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = random_tree(rng)
    distances = random_distances(rng, len(tree), ties=False)
    precisions, ranks = [], []
    for code in range(len(tree)):
        others = [other for other in range(len(tree)) if other != code]
        neighbours = [other for other in others if tree.parent[other] == code or tree.parent[code] == other]
        precisions.append(average_precision_score(np.isin(others, neighbours), -distances[code, others]))
        for neighbour in neighbours:
            closer = [o for o in others if o not in neighbours and distances[code, o] < distances[code, neighbour]]
            ranks.append(1 + len(closer))
    found = structure_metrics(distances, tree)
    assert found["map_edges"] == pytest.approx(np.mean(precisions))
    assert found["mean_rank_edges"] == pytest.approx(np.mean(ranks))


def test_tied_edges_take_the_middle_of_their_ties() -> None:
    tree = Tree.from_codes(["11", "111", "112", "113"])
    equal = np.ones((4, 4))
    found = structure_metrics(equal, tree)
    # 11 has no strangers; a child has one neighbour and two strangers, all tied: place 2 of 3.
    assert found["mean_rank_edges"] == pytest.approx((3 * 1 + 3 * 2) / 6)
    assert found["map_edges"] == pytest.approx((1 + 3 * 1 / 2) / 4)


def test_ceilings_of_the_full_taxonomy(real_tree: Tree) -> None:
    best = ceiling(real_tree)
    assert best["spearman_correlation"] == pytest.approx(0.977, abs=5e-4)
    assert best["spearman_correlation_within_sector"] == pytest.approx(0.977, abs=5e-4)
    assert best["ndcg@10"] == pytest.approx(0.933, abs=1e-3)
    assert best["sector_auc"] == pytest.approx(0.861, abs=5e-4)
    for name in ("cophenetic_correlation", "parent_retrieval@1", "map_edges", "radius_monotonicity"):
        assert best[name] == pytest.approx(1)
    assert best["distortion_mean"] == pytest.approx(0)
    scores = code_scores(real_tree.tree_distance().astype(float), real_tree)
    assert np.isfinite(scores["parent_retrieval@1"]).sum() == 1415


def test_spearman_reaches_its_ceiling_and_no_more_once_ties_are_broken(sample_tree: Tree) -> None:
    rng = np.random.default_rng(0)
    noise = random_distances(rng, len(sample_tree), ties=False) * 1e-3
    found = structure_metrics(sample_tree.tree_distance() + noise, sample_tree)
    best = ceiling(sample_tree)
    assert found["spearman_correlation"] == pytest.approx(best["spearman_correlation"], abs=1e-4)


def test_radii_of_children_and_levels() -> None:
    radii = np.where(SMALL.codes == "111", 9.0, SMALL.level)
    found = structure_metrics(random_distances(np.random.default_rng(0), len(SMALL), False), SMALL, radii=radii)
    assert found["radius_mean_level_3"] == pytest.approx((9 + 3 + 3 + 3) / 4)
    # 1111 and 1112 lie inside their parent, the other four children outside theirs.
    assert found["radius_monotonicity"] == pytest.approx(4 / 6)


def test_collapse_is_told_from_health(sample_tree: Tree) -> None:
    n = len(sample_tree)
    healthy = sample_tree.tree_distance().astype(float)
    assert structure_metrics(healthy, sample_tree)["collapse"] is False
    almost_constant = 1 + 1e-3 * random_distances(np.random.default_rng(0), n, ties=False)
    assert structure_metrics(almost_constant, sample_tree)["collapse"] is True
    coincident = healthy.copy()
    coincident[: n // 3, : n // 3] = 0
    found = structure_metrics(coincident, sample_tree)
    assert found["collapse"] is True
    assert found["distortion_worst"] == np.inf
    assert structure_metrics(np.zeros((n, n)), sample_tree)["collapse"] is True


def test_what_a_taxonomy_does_not_define_is_nan_and_nothing_fails() -> None:
    one_sector = Tree.from_codes(["11", "111", "1111", "11111", "111111"])
    found = structure_metrics(one_sector.tree_distance().astype(float), one_sector)
    undefined = {name for name, value in found.items() if np.isnan(value)}
    siblings = {"parent_retrieval@1", "parent_retrieval@5", "sibling_precision@5", "sibling_precision@10"}
    assert undefined == siblings | {"sector_auc"}
    alone = Tree.from_codes(["11"])
    assert np.isnan(structure_metrics(np.zeros((1, 1)), alone)["ndcg@10"])
    assert np.isnan(ceiling(alone)["spearman_correlation"])


def test_codes_left_out_of_training_are_judged_apart(sample_tree: Tree) -> None:
    distances = sample_tree.tree_distance().astype(np.float64)
    # Of an only child this is not asked: the parent is the same industry.
    leaves = np.flatnonzero(sample_tree.level == 6)
    _, brood, size = np.unique(sample_tree.parent[leaves], return_inverse=True, return_counts=True)
    leaves = leaves[size[brood] > 1]
    left_out = np.isin(np.arange(len(sample_tree)), leaves[:10])
    assert structure_metrics(distances, sample_tree, left_out=left_out)["left_out_parent_retrieval@1"] == 1
    level = sample_tree.level[leaves[0]] - 1
    # The parents of half of them look the farthest of their level.
    distances[np.ix_(leaves[:5], sample_tree.parent[leaves[:5]])] = 99
    assert (sample_tree.level[sample_tree.parent[leaves[:5]]] == level).all()
    metrics = structure_metrics(distances, sample_tree, left_out=left_out)
    assert metrics["left_out_parent_retrieval@1"] == 0.5
    assert metrics["parent_retrieval@1"] > 0.5
    assert "left_out_parent_retrieval@1" not in structure_metrics(distances, sample_tree)


def test_distances_that_are_not_finite_are_refused() -> None:
    distances = random_distances(np.random.default_rng(0), len(SMALL), ties=False)
    distances[1, 2] = np.nan
    with pytest.raises(ModelError, match="diverged"):
        structure_metrics(distances, SMALL)


def hyperbolic(tree: Tree, curvature: float, seed: int = 0) -> Embeddings:
    tangent = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(tree), 4)))
    return Embeddings(tree.codes, lorentz.exp0(tangent, curvature=curvature).numpy(), curvature)


def test_embeddings_may_come_in_any_order_and_curvature() -> None:
    embeddings = hyperbolic(SMALL, curvature=0.5)
    found = evaluate_embeddings(embeddings)
    shuffle = np.random.default_rng(1).permutation(len(SMALL))
    shuffled = Embeddings(SMALL.codes[shuffle], embeddings.points[shuffle], 0.5)
    assert evaluate_embeddings(shuffled) == pytest.approx(found, nan_ok=True)
    assert found["manifold_violation_max"] < 1e-12
    distances = embedding_distances(embeddings.points, 0.5, "lorentz")
    time, space = embeddings.points[:, :1], embeddings.points[:, 1:]
    inner = space @ space.T - time @ time.T
    assert distances == pytest.approx(np.arccosh(np.maximum(-0.5 * inner, 1)) / np.sqrt(0.5), abs=1e-6)
    assert (distances == distances.T).all()


def test_euclidean_embeddings_have_no_manifold_to_leave() -> None:
    points = np.random.default_rng(0).normal(size=(len(SMALL), 3))
    found = evaluate_embeddings(Embeddings(SMALL.codes, points, geometry="euclidean"))
    assert "manifold_violation_max" not in found
    assert found["radius_mean_level_2"] == pytest.approx(np.linalg.norm(points[SMALL.level == 2], axis=1).mean())
    assert embedding_distances(points, 1.0, "euclidean")[0, 1] == pytest.approx(np.linalg.norm(points[0] - points[1]))


def test_embeddings_of_another_taxonomy_are_refused_with_the_first_code_that_differs() -> None:
    other = Tree.from_codes(["11", "111", "112", "1111", "1112", "31", "321", "322"])
    with pytest.raises(ModelError, match="322"):
        evaluate_embeddings(hyperbolic(other, 1.0), tree=SMALL)


def scaled(tree: Tree, dim: int = 16) -> Embeddings:
    """Points that know the tree, under noise."""
    rng = np.random.default_rng(0)
    steps = np.vstack([rng.normal(size=(len(tree), dim)), np.zeros((1, dim))]) / dim**0.5
    v = steps[tree.ancestors()].sum(axis=1) + 0.3 * rng.normal(size=(len(tree), dim)) / dim**0.5
    return Embeddings(tree.codes, lorentz.exp0(torch.from_numpy(v)).numpy())


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_from_points_in_blocks_every_metric_is_that_of_the_matrix(
    geometry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = balanced_tree(400)
    space = replace(scaled(tree), geometry=geometry)
    exact = evaluate_embeddings(space, tree=tree)
    monkeypatch.setattr(structure, "EXACT_CODES", 10)
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    monkeypatch.setattr(neighbours, "_GATHERED_ENTRIES", 900)
    monkeypatch.setattr(structure, "embedding_distances", lambda *_: pytest.fail("a matrix of all distances was made"))
    binned = evaluate_embeddings(space, tree=tree)
    from_bins = {"spearman_correlation", "spearman_correlation_within_sector", "sector_auc", "distortion_mean"}
    for name, value in exact.items():
        tolerance = 1e-5 if name in from_bins else 1e-4 if name == "distortion_median" else 1e-9
        assert binned[name] == pytest.approx(value, abs=tolerance), name


def test_ties_and_ceilings_keep_their_values_in_blocks(sample_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = random_distances(np.random.default_rng(0), len(sample_tree), ties=True)
    exact, best = structure_metrics(tied, sample_tree), ceiling(sample_tree)
    monkeypatch.setattr(structure, "EXACT_CODES", 10)
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    assert structure_metrics(tied, sample_tree) == pytest.approx(exact, abs=1e-9)
    assert ceiling(sample_tree) == pytest.approx(best, abs=1e-9)


def test_collapse_and_what_is_undefined_are_told_in_blocks_too(
    sample_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "EXACT_CODES", 0)
    test_collapse_is_told_from_health(sample_tree)
    test_what_a_taxonomy_does_not_define_is_nan_and_nothing_fails()
    test_distances_that_are_not_finite_are_refused()


@pytest.mark.parametrize("codes", [25, 300, 2125, 20_000])
def test_balanced_taxonomies_have_the_number_of_codes_asked_for(codes: int) -> None:
    tree = balanced_tree(codes)
    assert len(tree) == codes
    assert set(tree.level.tolist()) == {2, 3, 4, 5, 6}


@pytest.mark.slow
def test_twenty_thousand_codes_are_measured_in_bounded_memory(peak_memory: Callable[[], float]) -> None:
    tree = balanced_tree(20_000)
    space = scaled(tree)
    before = peak_memory()
    found = evaluate_embeddings(space, tree=tree)
    assert peak_memory() - before < 6e9
    rows = np.random.default_rng(0).choice(len(tree), 400, replace=False)
    d, t = PointDistances(space.points)[rows], tree.tree_distance_of(rows[:, None], np.arange(len(tree)))
    assert found["spearman_correlation"] == pytest.approx(spearmanr(d.ravel(), t.ravel()).statistic, abs=0.03)
    assert found["collapse"] is False


@pytest.mark.parametrize("cutoffs", [(5,), (3, 20)])
def test_the_gate_finds_its_metrics_whatever_the_cutoffs(cutoffs: tuple[int, ...]) -> None:
    tree = random_tree(np.random.default_rng(0))
    metrics = structure_metrics(
        random_distances(np.random.default_rng(1), len(tree), ties=False), tree, cutoffs=cutoffs
    )
    assert {f"ndcg@{k}" for k in cutoffs} <= metrics.keys()
    assert [rule.metric for rule in gate(metrics, metrics)] == [
        "cophenetic_correlation",
        "ndcg@10",
        "parent_retrieval@1",
    ]
