"""What the page holds is what the embedding and the texts say; what it leaves out it says."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial.distance import cdist

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.explorer.content import explorer_content
from naics_pipeline.evaluation.explorer.page import render, write_explorer
from naics_pipeline.evaluation.explorer.spaces import PicturedSpace
from naics_pipeline.evaluation.explorer.texts import Reliability, SearchedTexts
from naics_pipeline.geometry import lorentz
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_neighbours_are_those_of_the_full_space(content: dict[str, Any], space: Embeddings, sample_tree: Tree) -> None:
    distances = PicturedSpace.of(space, sample_tree).distances
    shown = content["spaces"][0]
    near, far = (np.reshape(shown[name], (len(sample_tree), -1)) for name in ("neighbours", "distances"))
    np.fill_diagonal(distances, np.inf)
    assert np.allclose(np.sort(distances, axis=1)[:, : near.shape[1]], far, atol=1e-3)
    assert np.allclose(np.take_along_axis(distances, near, axis=1), far, atol=1e-3)


def unpacked(shown: dict[str, Any]) -> np.ndarray:
    """The points of a page's space, from its base64: bits in groups of twelve."""
    step, packed = shown["points"]["step"], base64.b64decode(shown["points"]["base64"])
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    whole = bits.reshape(-1, 12) @ (1 << np.arange(11, -1, -1))
    rows = len(whole) // len(step)
    points: np.ndarray = (whole[: rows * len(step)].reshape(rows, -1) - 2048.0) * step
    return points


@pytest.mark.parametrize("dimensions", [3, 40])
def test_distances_of_packed_points_are_right_to_two_decimals(
    dimensions: int, sample_tree: Tree, sample_descriptions: pl.DataFrame
) -> None:
    """Of an odd number of coordinates in all as well; the later axes are short."""
    codes, size = sample_tree.codes, len(sample_tree)
    tangent = np.random.default_rng(0).normal(size=(size, dimensions)) / np.arange(1, dimensions + 1) ** 0.5
    space = Embeddings(codes, lorentz.exp0(torch.from_numpy(tangent)).numpy())
    shown = explorer_content({"curved": space}, sample_descriptions, sample_tree)["spaces"][0]
    points = lorentz.exp0(torch.from_numpy(unpacked(shown)))
    found = lorentz.pairwise_distance(points, points).numpy()
    assert found == pytest.approx(PicturedSpace.of(space, sample_tree).distances, abs=5e-3)


def test_a_euclidean_space_has_a_page_too(sample_tree: Tree, sample_descriptions: pl.DataFrame) -> None:
    flat = np.random.default_rng(1).normal(size=(len(sample_tree), 4))
    space = Embeddings(sample_tree.codes, flat, geometry="euclidean")
    shown = explorer_content({"flat": space}, sample_descriptions, sample_tree)["spaces"][0]
    assert shown["columns"][0]["values"] == pytest.approx(np.linalg.norm(flat, axis=1).tolist(), abs=1e-3)
    assert cdist(unpacked(shown), unpacked(shown)) == pytest.approx(cdist(flat, flat), abs=5e-3)
    at = shown["neighbours"][0]
    assert shown["distances"][0] == pytest.approx(np.linalg.norm(flat[0] - flat[at]), abs=1e-3)


def test_order_of_the_rows_does_not_matter(
    content: dict[str, Any], space: Embeddings, sample_tree: Tree, sample_descriptions: pl.DataFrame
) -> None:
    turned = space.at(np.arange(len(space.codes))[::-1])
    again = explorer_content({"Refined": turned}, sample_descriptions.reverse(), sample_tree)
    assert again["codes"] == content["codes"] | {"examples": [[]] * len(sample_tree)}
    assert again["spaces"][0]["neighbours"] == content["spaces"][0]["neighbours"]
    assert again["texts"] is None


def test_all_pairs_are_in_the_density(content: dict[str, Any], sample_tree: Tree) -> None:
    rows = content["spaces"][0]["density"]["rows"]
    n = len(sample_tree)
    assert sum(sum(row["counts"]) for row in rows) == n * (n - 1) // 2
    assert [row["step"] for row in rows] == np.unique(sample_tree.tree_distance()[np.triu_indices(n, 1)]).tolist()
    assert sum(level["count"] for level in content["spaces"][0]["levels"]) == n


def test_confusion_and_errors_count_every_text(searched: SearchedTexts) -> None:
    sectors, counts = searched.confusion()
    assert counts.sum() == len(searched)
    assert sectors == sorted({code[:2] for code in searched.candidates} - {"32", "33", "45", "49"})
    errors = searched.error_by_candidate()
    assert errors[0] == pytest.approx(1 / 3)
    assert errors[1:10].tolist() == [0.0] * 9
    assert np.isnan(errors[10:]).all()
    assert searched.rank.tolist() == [len(searched.candidates)] + [1] * 29


def test_a_taxonomy_without_held_out_texts_has_a_page(
    space: Embeddings, sample_descriptions: pl.DataFrame, sample_tree: Tree
) -> None:
    candidates = space.codes[space.level == 6]
    none = SearchedTexts([], candidates, np.empty(0, dtype=np.int64), np.empty((0, len(candidates))))
    made = explorer_content({"mine": space}, sample_descriptions, sample_tree, texts=none)
    assert made["texts"]["text"] == []
    assert set(made["columns"][0]["values"]) == {None}
    assert render(made)


def test_reliability_of_a_coin_that_is_too_sure() -> None:
    found = Reliability.of(np.array([0.9, 0.9, 0.1, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert found.count.sum() == 4
    assert found.count[[1, 13, 14]].tolist() == [1, 2, 1]
    assert found.right[13] == 0.5
    assert found.error == pytest.approx((2 * 0.4 + 0.1) / 4)


def test_probability_of_a_sector_is_that_of_its_codes(searched: SearchedTexts) -> None:
    code, sector = searched.reliability(6), searched.reliability(2)
    assert code.error == pytest.approx(29 / 30 - 0.8)
    assert np.nanmax(sector.probability) > 0.8


def test_texts_of_one_answer_do_not_hide_one_another(content: dict[str, Any]) -> None:
    places = content["spaces"][0]["texts"]
    assert len(set(zip(places["radius"], places["angle"], strict=True))) == 30
    codes = content["spaces"][0]
    found = content["texts"]["found"]
    text, code = (np.tanh(np.array(p["radius"]) / 2) * np.exp(1j * np.array(p["angle"])) for p in (places, codes))
    apart = np.abs((text - code[found]) / (1 - np.conj(code[found]) * text))
    assert (2 * np.arctanh(apart) < 1.5).all()


def test_columns_of_a_users_own(space: Embeddings, sample_descriptions: pl.DataFrame, sample_tree: Tree) -> None:
    codes = sample_tree.codes[:3].tolist()
    table = pl.DataFrame({"wage": [1.5, None, 3.0], "code": codes, "kind": ["a", "b", None]})
    made = explorer_content({"mine": space}, sample_descriptions, sample_tree, columns=table)
    wage, kind = made["columns"]
    assert wage["values"][:4] == [1.5, None, 3, None]
    assert (kind["kind"], kind["values"][:4]) == ("category", ["a", "b", None, None])
    with pytest.raises(NaicsError, match="no column 'code'"):
        explorer_content({"mine": space}, sample_descriptions, sample_tree, columns=table.drop("code"))
    lists = table.with_columns(kinds=pl.lit([1, 2]))
    with pytest.raises(NaicsError, match="'kinds' holds List"):
        explorer_content({"mine": space}, sample_descriptions, sample_tree, columns=lists)
    strangers = table.with_columns(code=pl.lit("000000"))
    with pytest.raises(NaicsError, match="none of the values"):
        explorer_content({"mine": space}, sample_descriptions, sample_tree, columns=strangers)


def test_page_runs_what_its_policy_names_and_nothing_else(content: dict[str, Any]) -> None:
    page = render(content)
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(| style=|\son\w+=", page.split('id="data"')[0])


def test_what_a_text_says_stays_text(content: dict[str, Any]) -> None:
    page = render(content)
    assert data_of(page) == content
    assert page.count("</script>") == 2
    assert "sample &lt;/script&gt; &amp; more" in page


def test_page_is_written_whole(content: dict[str, Any], tmp_path: Path) -> None:
    write_explorer(tmp_path / "reports" / "explorer.html", content)
    assert [file.name for file in (tmp_path / "reports").iterdir()] == ["explorer.html"]
