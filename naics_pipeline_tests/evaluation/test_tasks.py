"""Tasks on places where the right result is plain, and against slow versions of themselves."""

from itertools import combinations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform

from naics_pipeline.evaluation.tasks import (
    classified,
    cluster_metrics,
    dendrogram_purity,
    embedding_tasks,
    task_scores,
    voted,
)
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree, random_tree


def along_the_tree(tree: Tree, seed: int = 0) -> np.ndarray:
    """Every code at its parent's place and a smaller step on."""
    place = np.zeros((len(tree), 32))
    steps = np.random.default_rng(seed).normal(size=place.shape) * (0.5 ** tree.level.astype(float))[:, None]
    for code in np.argsort(tree.level, kind="stable"):
        place[code] = (place[tree.parent[code]] if tree.parent[code] >= 0 else 0) + steps[code]
    return place


def test_places_along_the_tree_serve_and_places_at_random_do_not() -> None:
    tree = balanced_tree(900)
    kept, lost = along_the_tree(tree), np.random.default_rng(1).normal(size=(len(tree), 32))
    good, bad = (task_scores(squareform(pdist(x)), tree, x, seed=0) for x in (kept, lost))
    assert good.metrics.keys() == bad.metrics.keys()
    assert all(good.metrics[name] > bad.metrics[name] + 0.05 for name in good.metrics)
    assert good.metrics["cluster_ari_digits_2"] > 0.9
    assert good.metrics["classify_sector"] > 0.9
    assert abs(bad.metrics["cluster_ari_digits_2"]) < 0.05


def test_scores_by_code_are_of_six_digits_and_their_mean_is_the_metric() -> None:
    tree = balanced_tree(300)
    place = along_the_tree(tree)
    found = task_scores(squareform(pdist(place)), tree, place, seed=0)
    for name, values in found.by_code.items():
        assert np.isnan(values[tree.level < 6]).all()
        assert np.nanmean(values) == found.metrics[name]
    assert not [name for name in found.by_code if name.startswith("cluster_")]


def test_cosine_distances_alone_do_as_their_vectors_do() -> None:
    tree = balanced_tree(300)
    place = along_the_tree(tree)
    place /= np.linalg.norm(place, axis=1, keepdims=True)
    distances = 1 - place @ place.T
    assert task_scores(distances, tree, seed=0).metrics == pytest.approx(
        task_scores(distances, tree, place, seed=0).metrics
    )


def test_a_family_without_others_of_its_kind_is_not_asked_for() -> None:
    families, parts = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 2])
    hit = classified(np.eye(6), families, parts, seed=0)
    assert np.isnan(hit[4:]).all()
    assert np.isnan(classified(np.eye(6), families, np.zeros(6), seed=0)).all()


def test_nothing_of_a_code_s_own_part_reaches_its_fit() -> None:
    """A feature that tells each part, and nothing else, is of no use for a part that was left out."""
    parts = np.repeat(np.arange(40), 5)
    families = parts // 4
    assert np.nanmean(classified(np.eye(40)[parts], families, parts, seed=0)) < 0.2
    assert np.nanmean(classified(np.eye(10)[families], families, parts, seed=0)) == 1


def test_most_neighbours_win_and_of_equal_ones_the_nearer() -> None:
    distances = squareform(pdist(np.array([0.0, 1, 2.1, 3.3, 4.6, 6.0, 50])[:, None]))
    assert voted(distances, np.array([0, 1, 1, 1, 0, 0, 2]))[:1] == [0]
    assert voted(distances, np.array([0, 0, 1, 1, 0, 3, 2]))[:1] == [1]
    assert np.isnan(voted(distances, np.array([0, 0, 1, 1, 0, 3, 2]))[5:]).all()


@pytest.mark.parametrize("seed", range(4))
def test_dendrogram_purity_is_that_of_every_pair_of_a_family(seed: int) -> None:
    rng = np.random.default_rng(seed)
    families, joined = rng.integers(0, 4, 24), linkage(rng.normal(size=(24, 3)), method="average")
    held = [{leaf} for leaf in range(24)]
    for left, right in joined[:, :2].astype(int):
        held.append(held[left] | held[right])
    pure = []
    for first, second in combinations(range(24), 2):
        if families[first] == families[second]:
            smallest = min((h for h in held if {first, second} <= h), key=len)
            pure.append(np.mean(families[sorted(smallest)] == families[first]))
    assert dendrogram_purity(joined, families) == pytest.approx(np.mean(pure))


def test_a_taxonomy_without_families_has_no_metrics_and_no_error() -> None:
    line = Tree.from_codes(["11", "111", "1111", "11111", "111111"])
    found = task_scores(np.zeros((5, 5)), line, np.zeros((5, 2)), seed=0)
    assert all(np.isnan(value) for value in found.metrics.values())
    alone = {digits: np.zeros(3) for digits in LEVELS}
    assert all(np.isnan(value) for value in cluster_metrics(np.zeros((3, 3)), alone).values())


def test_the_order_of_a_file_s_rows_does_not_matter() -> None:
    tree = random_tree(np.random.default_rng(0))
    space = Embeddings(tree.codes, along_the_tree(tree), geometry="euclidean")
    turned = space.at(np.arange(len(tree))[::-1])
    assert embedding_tasks(turned, tree, seed=0).metrics == pytest.approx(
        embedding_tasks(space, tree, seed=0).metrics, nan_ok=True
    )
