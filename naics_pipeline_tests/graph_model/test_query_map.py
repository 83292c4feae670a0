"""Free text after refinement: what is kept of its neighbourhood, and the file it is kept in."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.query_map import QueryMap, _neighbourhood
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

CURVATURES = [(1.0, 1.0), (1.0, 0.4), (2.5, 1.0)]


def _tree() -> Tree:
    codes = ["11", "21"]
    for level in range(3, 7):
        codes += [code + digit for code in codes if len(code) == level - 1 for digit in "123"]
    return Tree.from_codes(codes)


def _points(n: int, curvature: float, seed: int, scale: float = 3.0, dim: int = 16) -> np.ndarray:
    random = np.random.default_rng(seed)
    v = torch.from_numpy(random.normal(size=(n, dim)) * scale / np.sqrt(dim * curvature))
    return lorentz.exp0(v, curvature=curvature).numpy()


def _spaces(text_curvature: float = 1.0, curvature: float = 1.0) -> tuple[Tree, Embeddings, Embeddings]:
    """Text and refined points that have nothing to do with one another: the worst that refinement can do."""
    tree = _tree()
    return (
        tree,
        Embeddings(tree.codes, _points(len(tree), text_curvature, 0), text_curvature),
        Embeddings(tree.codes, _points(len(tree), curvature, 1), curvature),
    )


def _order(queries: np.ndarray, space: Embeddings, tree: Tree) -> np.ndarray:
    codes = torch.from_numpy(space.points[tree.level == 6])
    distance = lorentz.pairwise_distance(torch.from_numpy(queries), codes, curvature=space.curvature)
    return distance.argsort(dim=1).numpy()


@pytest.mark.parametrize(("text_curvature", "curvature"), CURVATURES)
def test_the_nearest_code_of_a_query_is_the_same_in_both_spaces(text_curvature: float, curvature: float) -> None:
    tree, text, refined = _spaces(text_curvature, curvature)
    queries = _points(40, text_curvature, 2)
    moved = QueryMap.fit(text, refined).apply(queries)
    assert float(lorentz.violation(torch.from_numpy(moved), curvature=curvature).max()) < 1e-6
    np.testing.assert_array_equal(_order(moved, refined, tree)[:, 0], _order(queries, text, tree)[:, 0])


def test_the_five_nearest_are_mostly_kept_where_beside_the_nearest_code_they_are_not() -> None:
    tree, text, elsewhere = _spaces()
    before, other = (lorentz.log0(torch.from_numpy(space.points)) for space in (text, elsewhere))
    refined = Embeddings(tree.codes, lorentz.exp0(0.7 * before + 0.3 * other).numpy(), 1.0)
    queries = _points(40, 1.0, 2)
    wanted = _order(queries, text, tree)[:, :5]

    def kept(points: np.ndarray) -> float:
        found = _order(points, refined, tree)[:, :5]
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]))

    beside = refined.points[tree.level == 6][wanted[:, 0]]
    assert kept(beside) < 0.5
    assert kept(QueryMap.fit(text, refined).apply(queries)) > 0.8


def test_a_query_is_moved_the_same_alone_as_among_others() -> None:
    _, text, refined = _spaces()
    queries = _points(6, 1.0, 3)
    query_map = QueryMap.fit(text, refined)
    together = query_map.apply(queries)
    np.testing.assert_allclose(query_map.apply(queries[2:3]), together[2:3], rtol=1e-4, atol=1e-6)
    assert query_map.apply(queries[:0]).shape == (0, queries.shape[1])


def test_the_map_comes_back_from_its_file(tmp_path: Path) -> None:
    _, text, refined = _spaces(1.0, 0.4)
    query_map = QueryMap.fit(text, refined)
    query_map.save(tmp_path / "map.npz")
    queries = _points(5, 1.0, 3)
    loaded = QueryMap.load(tmp_path / "map.npz")
    np.testing.assert_array_equal(loaded.apply(queries), query_map.apply(queries))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "map.npz"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"map\.npz.*Materialize refined_embeddings"):
        QueryMap.load(path)
    with pytest.raises(ModelError, match="absent"):
        QueryMap.load(tmp_path / "absent.npz")


def test_rows_in_another_order_give_the_same_map() -> None:
    tree, text, refined = _spaces()
    order = np.random.default_rng(0).permutation(len(tree))
    shuffled = Embeddings(refined.codes[order], refined.points[order])
    np.testing.assert_array_equal(QueryMap.fit(text, shuffled).refined, QueryMap.fit(text, refined).refined)


def test_neighbourhoods_have_the_perplexity_asked_for() -> None:
    distance = torch.rand(7, 50, dtype=torch.float64) * 10
    shares = _neighbourhood(distance, 5.0)
    torch.testing.assert_close(shares.sum(1), torch.ones(7, dtype=torch.float64))
    perplexity = torch.special.entr(shares).sum(1).exp()
    torch.testing.assert_close(perplexity, torch.full_like(perplexity, 5.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(_neighbourhood(distance[:, :1], 5.0), torch.ones(7, 1, dtype=torch.float64))
