"""Triplets against a naive enumeration, the published counts, and what can go wrong while they are written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.taxonomy import triplets
from naics_pipeline.taxonomy.tree import Tree, distances, excluded_matrix, relations

CODES = ["11", "111", "1111", "11111", "111110", "1112", "112", "31", "311", "3111", "321", "44"]
CITED = {"1111": ["112", "31"], "321": ["311"]}
COLUMNS = [
    "anchor_code",
    "positive_code",
    "negative_code",
    "hardness",
    "excluded",
    "unrelated",
    "positive_distance",
    "negative_distance",
    "distance_diff",
]


def described(codes: list[str]) -> pl.DataFrame:
    lists = [CITED.get(code, []) for code in codes]
    return pl.DataFrame(
        {"code": codes, "excluded_codes": lists}, schema_overrides={"excluded_codes": pl.List(pl.String)}
    )


def write(codes: list[str], directory: Path) -> pl.DataFrame:
    frame = described(codes)
    return triplets.write_triplets(distances(frame), relations(frame), directory)


def rows(directory: Path) -> set[tuple]:
    with triplets.connect(directory) as connection:
        found = connection.execute("SELECT * FROM triplets").fetchall()
        assert [column[0] for column in connection.description] == COLUMNS
    assert len(found) == len(set(found))
    return set(found)


def naive(codes: list[str]) -> set[tuple]:
    """Every triplet of a small taxonomy, by the words of the specification."""
    tree = Tree.from_codes(codes)
    d, excluded = tree.distance(), excluded_matrix(described(codes), tree)
    found = set()
    for a, anchor in enumerate(codes):
        for p, positive in enumerate(codes):
            for n, negative in enumerate(codes):
                if p == a or tree.sector[p] != tree.sector[a] or not d[a, n] > d[a, p]:
                    continue
                difference = d[a, n] - d[a, p]
                unrelated = bool(tree.sector[a] != tree.sector[n])
                bounds = [(0.5, 7), (1, 6), (2, 5), (3, 4), (4, 3), (np.inf, 2)]
                grade = next(grade for bound, grade in bounds if difference <= bound)
                grade = 8 if excluded[a, n] else 1 if unrelated else grade
                values = grade, bool(excluded[a, n]), unrelated, float(d[a, p]), float(d[a, n]), float(difference)
                found.add((anchor, positive, negative, *values))
    return found


def test_every_triplet_and_no_other(tmp_path: Path) -> None:
    table = write(CODES, tmp_path)
    expected = naive(CODES)
    assert rows(tmp_path) == expected
    counts = pl.Series([row[3] for row in expected]).value_counts().rows()
    assert dict(table.rows()) == dict(counts)
    assert 8 in dict(counts)


@pytest.mark.parametrize("codes", [["11"], ["11", "111"], ["11", "111", "112"], ["11", "21"]])
def test_small_taxonomies(codes: list[str], tmp_path: Path) -> None:
    table = write(codes, tmp_path)
    assert rows(tmp_path) == naive(codes)
    assert table["triplets"].sum() == len(naive(codes))
    assert 1 not in table["hardness"].to_list() or "21" in codes


@pytest.mark.parametrize(
    ("positive", "negative", "excluded", "grade"),
    [
        (2.0, 2.5, False, 7),
        (2.5, 3.5, False, 6),
        (2.0, 4.0, False, 5),
        (1.5, 4.0, False, 4),
        (2.0, 6.0, False, 3),
        (0.5, 8.0, False, 2),
        (8.0, 10.0, False, 1),
        (8.0, 10.0, True, 8),
        (2.0, 2.5, True, 8),
        (2.0, 2.0, False, 0),
        (3.0, 2.0, True, 0),
    ],
)
def test_hardness(positive: float, negative: float, excluded: bool, grade: int) -> None:
    assert triplets.hardness(positive, negative, excluded) == grade


def test_hardness_broadcasts_over_anchors_and_negatives() -> None:
    positive, negative = np.array([[0.5], [5.0]], np.float32), np.array([[1.0, 4.0, 10.0]], np.float32)
    grades = triplets.hardness(positive, negative, np.zeros((1, 3), bool))
    assert grades.dtype == np.uint8
    assert grades.tolist() == [[7, 3, 1], [0, 0, 1]]


def test_triplets_of_naics_2022(real_descriptions: pl.DataFrame, tmp_path: Path) -> None:
    distance = distances(real_descriptions)
    assert 2 * (distance["distance"] < 10).sum() == 544_206
    table = triplets.write_triplets(distance, relations(real_descriptions), tmp_path)
    assert table["triplets"].sum() == 976_051_440
    assert table.rows() == [
        (8, 718_905),
        (7, 73_560),
        (6, 48_279_641),
        (5, 25_117_081),
        (4, 7_681_833),
        (3, 2_293_135),
        (2, 2_486_407),
        (1, 889_400_878),
    ]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 60e6
    with triplets.connect(tmp_path) as connection:
        one_anchor = "FROM triplets WHERE anchor_code = '111110'"
        count = connection.execute(f"SELECT count(*), count(DISTINCT (positive_code, negative_code)) {one_anchor}")
        d = Tree.from_codes(real_descriptions["code"].to_list()).distance()[4]
        positives = d[(d > 0) & (d < 10)]
        assert count.fetchone() == (expected := int((d[None, :] > positives[:, None]).sum()), expected)


def test_a_directory_without_triplets_is_named(tmp_path: Path) -> None:
    with pytest.raises(NaicsError, match=r"triplets\.parquet does not exist.*materialize"):
        triplets.connect(tmp_path)


def in_python(script: str, directory: Path) -> subprocess.Popen[str]:
    """Runs a script in which `write(codes)` writes the triplets of a taxonomy into the directory."""
    head = (
        "import sys; from pathlib import Path; import polars as pl\n"
        "from naics_pipeline_tests.taxonomy import test_triplets as t\n"
        f"write = lambda codes: t.write(codes, Path({str(directory)!r}))\n"
    )
    command = [sys.executable, "-c", head + script]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root)


def test_a_kill_in_the_middle_leaves_the_last_good_table(tmp_path: Path) -> None:
    write(CODES, tmp_path)
    before = rows(tmp_path)
    process = in_python(
        "import time\n"
        "whole = pl.DataFrame.write_parquet\n"
        "def half(frame, path, **options):\n"
        "    whole(frame, path, **options)\n"
        "    content = path.read_bytes()\n"
        "    path.write_bytes(content[: len(content) // 2])\n"
        "    print('half', flush=True); time.sleep(60)\n"
        "pl.DataFrame.write_parquet = half\n"
        "write(t.CODES[:8])\n",
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert rows(tmp_path) == before
    write(CODES[:8], tmp_path)
    assert rows(tmp_path) == naive(CODES[:8])


def test_a_full_disk_leaves_the_last_good_table_and_says_what_to_do(tmp_path: Path) -> None:
    write(CODES, tmp_path)
    before = rows(tmp_path)
    process = in_python(
        "import resource; from naics_pipeline.errors import NaicsError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: write(t.CODES)\n"
        "except NaicsError as error: print(error)\n",
        tmp_path,
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert str(tmp_path / "triplets.parquet") in output
    assert "could not be written" in output
    assert "Free some space" in output
    assert rows(tmp_path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["triplets.parquet"]
