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

DIM = 64  # as many as embeddings have by default: fewer hold fewer orders of 162 codes
CURVATURES = [(1.0, 1.0), (1.0, 0.4), (2.5, 1.0)]


def _tree() -> Tree:
    codes = ["11", "21"]
    for level in range(3, 7):
        codes += [code + digit for code in codes if len(code) == level - 1 for digit in "123"]
    return Tree.from_codes(codes)


def _points(n: int, curvature: float, seed: int, scale: float = 3.0, dim: int = DIM) -> np.ndarray:
    random = np.random.default_rng(seed)
    v = torch.from_numpy(random.normal(size=(n, dim)) * scale / np.sqrt(dim * curvature))
    return lorentz.exp0(v, curvature=curvature).numpy()


def _spaces(text_curvature: float = 1.0, curvature: float = 1.0) -> tuple[Tree, Embeddings, Embeddings]:
    """Text points of no order at all, and refined ones that know nothing but the tree: the worst for free text."""
    tree = _tree()
    random = np.random.default_rng(1)
    steps = np.vstack([random.normal(size=(len(tree), DIM)), np.zeros((1, DIM))])
    steps /= np.linalg.norm(steps, axis=1, keepdims=True).clip(1e-9)
    v = steps[tree.ancestors()].sum(axis=1)
    v *= ((tree.level - 1) / np.linalg.norm(v, axis=1))[:, None] / np.sqrt(curvature)
    refined = lorentz.exp0(torch.from_numpy(v), curvature=curvature).numpy()
    return (
        tree,
        Embeddings(tree.codes, _points(len(tree), text_curvature, 0), text_curvature),
        Embeddings(tree.codes, refined, curvature),
    )


def _order(queries: np.ndarray, space: Embeddings, tree: Tree, level: int = 6) -> np.ndarray:
    codes = torch.from_numpy(space.points[tree.level == level])
    distance = lorentz.pairwise_distance(torch.from_numpy(queries), codes, curvature=space.curvature)
    return distance.argsort(dim=1).numpy()


@pytest.mark.parametrize(("text_curvature", "curvature"), CURVATURES)
def test_a_query_has_the_same_codes_about_it_in_both_spaces(text_curvature: float, curvature: float) -> None:
    tree, text, refined = _spaces(text_curvature, curvature)
    queries = _points(40, text_curvature, 2)
    wanted = _order(queries, text, tree)
    moved = QueryMap.fit(text, refined).apply(queries)
    assert float(lorentz.violation(torch.from_numpy(moved), curvature=curvature).max()) < 1e-6

    def kept(points: np.ndarray, k: int) -> float:
        found = _order(points, refined, tree)
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(wanted[:, :k], found[:, :k], strict=True)]))

    assert kept(moved, 1) == 1
    assert kept(moved, 5) > 0.95
    beside = refined.points[tree.level == 6][wanted[:, 0]]
    assert kept(beside, 5) < 0.5


def test_a_query_is_nearest_at_each_level_to_what_its_likely_codes_belong_to() -> None:
    tree, _, refined = _spaces()
    leaves = np.flatnonzero(tree.level == 6)
    apart = lorentz.log0(torch.from_numpy(refined.points[leaves]))
    apart += 0.2 * torch.from_numpy(np.random.default_rng(3).normal(size=apart.shape)) / DIM**0.5
    moved = QueryMap.fit(refined, refined).apply(lorentz.exp0(apart).numpy())
    for level in range(2, 7):
        here = np.flatnonzero(tree.level == level)
        found = here[_order(moved, refined, tree, level)[:, 0]]
        np.testing.assert_array_equal(found, tree.ancestors()[leaves, level - 2])


def test_a_query_is_a_leaf_like_any_other() -> None:
    _, text, refined = _spaces()
    moved = torch.from_numpy(QueryMap.fit(text, refined).apply(_points(5, 1.0, 2)))
    torch.testing.assert_close(lorentz.radius(moved), torch.full((5,), 5.0, dtype=torch.float64))


def _free(space: Embeddings, deviation: float) -> Embeddings:
    """The same directions at radii of their own."""
    v = lorentz.log0(torch.from_numpy(space.points), curvature=space.curvature)
    own = torch.from_numpy(np.random.default_rng(4).normal(size=(len(v), 1)))
    points = lorentz.exp0(v * (1 + deviation * own), curvature=space.curvature).numpy()
    return Embeddings(space.codes, points, space.curvature)


@pytest.mark.parametrize("curvature", [1.0, 0.4])
def test_where_radii_are_free_their_differences_count(curvature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries beside codes of the text space, the refined one being it under noise, with radii that differ by 2 %."""
    tree, _, refined = _spaces(1.0, curvature)
    refined = _free(refined, 0.02)
    random = np.random.default_rng(3)
    v = lorentz.log0(torch.from_numpy(refined.points), curvature=curvature)
    v = v + 0.4 * torch.from_numpy(random.normal(size=v.shape)) / (DIM * curvature) ** 0.5
    text = Embeddings(tree.codes, lorentz.exp0(v, curvature=curvature).numpy(), curvature)
    near = v[tree.level == 6] + 0.5 * torch.from_numpy(random.normal(size=(162, DIM))) / (DIM * curvature) ** 0.5
    queries = lorentz.exp0(near, curvature=curvature).numpy()
    wanted = _order(queries, text, tree)

    def kept(k: int) -> float:
        found = _order(QueryMap.fit(text, refined).apply(queries), refined, tree)
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(wanted[:, :k], found[:, :k], strict=True)]))

    first, five = kept(1), kept(5)
    assert first > 0.8
    assert five > 0.8
    moved = torch.from_numpy(QueryMap.fit(text, refined).apply(queries))
    assert float(lorentz.violation(moved, curvature=curvature).max()) < 1e-6
    monkeypatch.setattr(QueryMap, "_on_spheres", lambda self: True)
    assert kept(1) < first - 0.5
    assert kept(5) < five - 0.3


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
