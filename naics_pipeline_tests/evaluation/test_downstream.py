"""A number that follows the tree is predicted for codes never seen; noise is not, and codes alone say nothing."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.downstream import ANCESTORS, EMBEDDING, ONE_HOT, Table, predictions, read_table
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings, write_embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree
from naics_pipeline_tests.test_cli import naics as naics

TREE = balanced_tree(300)


@pytest.fixture(scope="module")
def points() -> Embeddings:
    """Each code a step away from its parent, the step's length falling with the level."""
    rng = np.random.default_rng(0)
    place = rng.normal(size=(len(TREE), 12))
    for code in np.argsort(TREE.level, kind="stable"):
        if TREE.parent[code] >= 0:
            place[code] = place[TREE.parent[code]] + place[code] / TREE.level[code]
    return Embeddings(TREE.codes, place, geometry="euclidean")


def test_what_lies_in_the_points_is_predicted_and_noise_is_not(points: Embeddings) -> None:
    codes, rng = np.arange(len(TREE)), np.random.default_rng(1)
    direction = rng.normal(size=12)
    found = predictions(Table(codes, points.points @ direction, []), points, TREE, seed=0)
    assert found[EMBEDDING].r2 > 0.95
    assert found[EMBEDDING].r2 > found[ANCESTORS].r2 > 0.2
    assert found[ONE_HOT].r2 < 0.02
    gain = found[ANCESTORS].against
    assert gain is not None
    assert gain.low > 0
    noise = predictions(Table(codes, rng.normal(size=len(TREE)), []), points, TREE, seed=0)
    assert noise[EMBEDDING].r2 < 0.1


def test_rows_of_one_code_are_never_on_both_sides(points: Embeddings) -> None:
    """A number of each code's own, said three times: whoever has seen the code would know it."""
    codes = np.repeat(np.arange(len(TREE)), 3)
    own = np.repeat(np.random.default_rng(2).normal(size=len(TREE)), 3)
    assert predictions(Table(codes, own, []), points, TREE, seed=0)[ONE_HOT].r2 < 0.02


def test_a_file_is_read_with_its_gaps_and_strangers(tmp_path: Path) -> None:
    codes = [*TREE.codes[:12].tolist(), "99", "999999"]
    frame = pl.DataFrame({"naics": codes, "wage": [*map(float, range(11)), None, 1.0, 2.0]})
    frame.write_csv(tmp_path / "w.csv")
    frame.write_parquet(tmp_path / "w.parquet")
    for name in ("w.csv", "w.parquet"):
        found = read_table(tmp_path / name, "wage", TREE, "naics")
        assert found.target.tolist() == list(range(11))
        assert found.unknown == ["99", "999999"]


def test_merged_sectors_go_by_any_of_their_names(tmp_path: Path) -> None:
    tree = Tree.from_codes(["31", *(f"{n}" for n in range(50, 62))])
    codes = ["31-33", *(str(n) for n in range(50, 61))]
    pl.DataFrame({"code": codes, "y": range(12)}).write_csv(tmp_path / "m.csv")
    assert tree.codes[read_table(tmp_path / "m.csv", "y", tree).code[0]] == "31"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("code,x\n11,1\n", "no column 'y'"),
        ("code,y\n50,high\n", "'high', which is no number"),
        ("code,y\n50,1\n", "only 1 codes"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(NaicsError, match=says):
        read_table(tmp_path / "x.csv", "y", TREE)


def test_the_command_prints_a_table_and_draws(naics, points: Embeddings, tmp_path: Path) -> None:
    write_embeddings(points, tmp_path / "p.parquet")
    frame = pl.DataFrame({"code": TREE.codes.tolist(), "wage": points.points[:, 0]})
    frame.write_csv(tmp_path / "w.csv")
    given = ("downstream", "--data", tmp_path / "w.csv", "--target", "wage", "--embeddings", tmp_path / "p.parquet")
    code, out, _ = naics(*given, "--json", "--out", tmp_path / "w.png")
    assert code == 0
    assert json.loads(out)["embedding"]["r2"] > 0.9
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    assert "ancestors" in naics(*given)[1]
