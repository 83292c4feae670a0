"""`naics compare`, `verify` and `seeds` from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.evaluation.compare import Thresholds
from naics_pipeline.text_model.embeddings import Embeddings, read_embeddings, write_embeddings
from naics_pipeline_tests.evaluation.runs.test_comparison import keep
from naics_pipeline_tests.evaluation.trees import balanced_tree
from naics_pipeline_tests.test_cli import naics as naics


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Points of a flat space in which codes lie among their kin, and the same with noise over them."""
    tree, rng = balanced_tree(90), np.random.default_rng(0)
    own = rng.normal(size=(len(tree), 30))
    points = own.copy()
    for code in np.argsort(tree.level, kind="stable"):
        if tree.parent[code] >= 0:
            points[code] = points[tree.parent[code]] + own[code] / 3
    good = Embeddings(tree.codes, points, geometry="euclidean")
    write_embeddings(good, tmp_path / "good.parquet")
    write_embeddings(replace(good, points=points + rng.normal(size=points.shape)), tmp_path / "noisy.parquet")
    return tmp_path / "good.parquet", tmp_path / "noisy.parquet"


def test_verify_passes_what_gains_and_fails_what_loses(naics, files):
    good, noisy = files
    assert naics("verify", noisy, good)[0] == 0
    code, out, _ = naics("verify", good, noisy)
    assert code == 1
    assert "no" in out


def test_verify_gives_numbers_and_takes_thresholds(naics, files):
    good, noisy = files
    code, out, _ = naics("verify", good, noisy, "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    rule = next(rule for rule in found["rules"] if rule["metric"] == "ndcg@10")
    assert rule["change"] == pytest.approx(rule["after"] - rule["before"])
    assert rule["minimum"] == Thresholds().ndcg
    lenient = ("--cophenetic", "-1", "--ndcg", "-1", "--parent", "-1", "--parent-is-high", "2")
    assert naics("verify", good, noisy, *lenient)[0] == 0


def test_verify_refuses_files_of_other_codes(naics, files, tmp_path):
    fewer = read_embeddings(files[0])
    write_embeddings(fewer.at(fewer.codes != fewer.codes[-1]), tmp_path / "fewer.parquet")
    code, _, err = naics("verify", files[0], tmp_path / "fewer.parquet")
    assert code == 1
    assert "codes" in err


def test_compare_writes_a_page_and_says_what_differs(naics, tmp_path):
    keep(tmp_path, "first")
    keep(tmp_path, "second", 0.01)
    where = ("--set", f"data_dir={tmp_path}")
    code, out, _ = naics("compare", "first", "mlflow-second", *where, "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert {row["metric"]: row["verdict"] for row in found["differences"]}["query_mrr"] == "better"
    assert (tmp_path / "reports" / "compare_first_second.html").is_file()
    assert naics("compare", "first", "second", "--out", tmp_path / "x.html", *where)[0] == 0
    assert (tmp_path / "x.html").is_file()
    assert "at least two" in naics("compare", "first", *where)[2]


def test_seeds_says_what_must_be_made_first(naics, tmp_path):
    code, _, err = naics("seeds", "--seeds", "1", "--set", f"data_dir={tmp_path}")
    assert code == 1
    assert "descriptions.parquet" in err
    assert "whole numbers" in naics("seeds", "--seeds", "one", "--set", f"data_dir={tmp_path}")[2]
