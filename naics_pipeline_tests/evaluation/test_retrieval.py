"""Query metrics against loops, ties at chance, merged sectors, and nothing to ask."""

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.evaluation.retrieval import query_distances, query_metrics, query_scores
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline_tests.evaluation.trees import random_tree


def six_digit(tree: Tree) -> np.ndarray:
    return tree.codes[tree.level == 6]


def ancestors(tree: Tree, code: str) -> set[int]:
    position, found = int(tree.position([code])[0]), set()
    while position >= 0:
        found.add(position)
        position = int(tree.parent[position])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_queries_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = random_tree(rng)
    candidates = rng.permutation(six_digit(tree))
    truth = rng.choice(candidates, 40)
    distances = rng.uniform(size=(40, len(candidates)))
    rows = []
    for row, right in zip(distances, truth, strict=True):
        ranking = candidates[np.argsort(row)].tolist()
        rank = ranking.index(right) + 1
        one, other = ancestors(tree, ranking[0]), ancestors(tree, right)
        shared = len(one & other)
        precision, recall = shared / len(one), shared / len(other)
        rows.append(
            {
                "query_top1": rank <= 1,
                "query_top5": rank <= 5,
                "query_top10": rank <= 10,
                "query_mrr": 1 / rank,
                **{f"query_top1_digits_{digits}": shared >= digits - 1 for digits in (2, 3, 4, 5)},
                "query_hierarchical_f1": 2 * precision * recall / (precision + recall) if shared else 0,
            }
        )
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert query_metrics(distances, candidates, truth) == pytest.approx(expected)


def test_a_method_that_cannot_tell_codes_apart_scores_chance() -> None:
    candidates = ["111110", "111120", "221110", "531110"]
    found = query_metrics(np.zeros((2, 4)), candidates, ["111110", "221110"])
    assert found["query_top1"] == pytest.approx(1 / 4)
    assert found["query_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["query_top10"] == 1
    # Half of the candidates share the first query's sector, a quarter the second's.
    assert found["query_top1_digits_2"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert found["query_hierarchical_f1"] == pytest.approx(((1 + 3 / 5) / 4 + 1 / 4) / 2)


def test_manufacturing_is_one_sector() -> None:
    found = query_scores(np.array([[0.0, 1.0]]), ["331110", "311111"], ["311111"])
    assert found["query_top1_digits_2"].tolist() == [1]
    assert found["query_top1_digits_3"].tolist() == [0]
    assert found["query_hierarchical_f1"].tolist() == [pytest.approx(1 / 5)]


def test_without_queries_there_are_names_but_no_values() -> None:
    found = query_metrics(np.empty((0, 2)), ["111110", "111120"], [])
    assert "query_top1" in found
    assert all(np.isnan(value) for value in found.values())


def test_a_query_of_an_unknown_code_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="999990"):
        query_metrics(np.zeros((1, 2)), ["111110", "111120"], ["999990"])


@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_query_distances_are_geodesic(curvature: float) -> None:
    tangent = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = lorentz.exp0(tangent, curvature=curvature)
    queries, codes = points[:3], points[3:]
    expected = lorentz.distance(queries[:, None], codes[None], curvature=curvature).numpy()
    assert query_distances(queries.numpy(), codes.numpy(), curvature, "lorentz") == pytest.approx(expected)
    flat = query_distances(queries.numpy(), codes.numpy(), curvature, "euclidean")
    assert flat[1, 2] == pytest.approx(float((queries[1] - codes[2]).norm()))
