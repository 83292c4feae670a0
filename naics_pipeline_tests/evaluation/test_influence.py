"""Scores by code of metrics over all pairs: their mean is the metric, their spread that of the metric."""

import numpy as np
import pytest

from naics_pipeline.evaluation.influence import pair_scores
from naics_pipeline.evaluation.structure import structure_metrics
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline_tests.evaluation.trees import balanced_tree, random_distances

NAMES = (
    "cophenetic_correlation",
    "cophenetic_correlation_within_sector",
    "spearman_correlation",
    "spearman_correlation_within_sector",
    "sector_auc",
    "distortion_mean",
)


def like_the_tree(tree: Tree, seed: int, ties: bool = False) -> np.ndarray:
    noise = random_distances(np.random.default_rng(seed), len(tree), ties)
    return tree.tree_distance() + noise


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_is_the_metric(ties: bool) -> None:
    tree = balanced_tree(90)
    distances = like_the_tree(tree, 0, ties)
    metrics, scores = structure_metrics(distances, tree), pair_scores(distances, tree)
    assert set(scores) == set(NAMES)
    assert {name: values.mean() for name, values in scores.items()} == pytest.approx(
        {name: metrics[name] for name in NAMES}, abs=1e-9
    )


def test_a_score_is_what_the_metric_loses_without_its_code() -> None:
    """Codes are left out one by one; only leaves, so that what remains is a tree."""
    tree = balanced_tree(120)
    distances = like_the_tree(tree, 1)
    whole, scores = structure_metrics(distances, tree), pair_scores(distances, tree)
    leaves = np.flatnonzero(tree.level == 6)[::3]
    lost: dict[str, list[float]] = {name: [] for name in NAMES}
    for leaf in leaves:
        rest = np.delete(np.arange(len(tree)), leaf)
        metrics = structure_metrics(distances[np.ix_(rest, rest)], Tree.from_codes(tree.codes[rest].tolist()))
        for name in NAMES:
            lost[name].append(whole[name] + (len(tree) - 1) * (whole[name] - metrics[name]))
    for name in NAMES:
        assert np.corrcoef(scores[name][leaves], lost[name])[0, 1] > 0.98, name
        assert np.std(scores[name][leaves]) == pytest.approx(np.std(lost[name]), rel=0.15), name


def test_one_sector_has_no_auc() -> None:
    tree = Tree.from_codes(["11", "111", "112", "1111", "1112"])
    assert "sector_auc" not in pair_scores(like_the_tree(tree, 0), tree)
