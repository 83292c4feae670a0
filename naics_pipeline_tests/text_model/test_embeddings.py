"""Embedding files and what they say of each row beside its point."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model.embeddings import Embeddings, read_embeddings, write_embeddings


def embeddings() -> Embeddings:
    columns = pl.DataFrame(
        {"split": ["a", "b", "a"], "repeated": [True, False, False], "codes": [["1", "2"], [], ["3"]]}
    )
    return Embeddings(
        np.array(["11", "", "111110"]), np.arange(12.0).reshape(3, 4), 0.5, metadata={"run_id": "x"}, columns=columns
    )


def test_further_columns_are_written_after_the_point_and_read_back(tmp_path: Path) -> None:
    written = embeddings()
    write_embeddings(written, tmp_path / "texts.parquet")
    assert pl.read_parquet(tmp_path / "texts.parquet").columns == [
        "index",
        "level",
        "code",
        "point",
        *written.columns.columns,
    ]
    read = read_embeddings(tmp_path / "texts.parquet")
    assert read.columns.equals(written.columns)
    assert read.codes.tolist() == written.codes.tolist()
    assert read.level.tolist() == [2, 0, 6]
    assert (read.curvature, read.metadata) == (0.5, {"run_id": "x"})


def test_without_further_columns_there_are_none(tmp_path: Path) -> None:
    write_embeddings(Embeddings(np.array(["11"]), np.zeros((1, 3))), tmp_path / "codes.parquet")
    assert read_embeddings(tmp_path / "codes.parquet").columns.width == 0


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_some_rows_keep_what_is_known_of_them(rows: np.ndarray) -> None:
    found = embeddings().at(rows)
    assert sorted(found.codes.tolist()) == ["11", "111110"]
    assert dict(zip(found.codes.tolist(), found.columns["repeated"], strict=True)) == {"11": True, "111110": False}
    assert dict(zip(found.codes.tolist(), found.points[:, 0], strict=True)) == {"11": 0, "111110": 8}


def test_columns_of_another_height_are_refused() -> None:
    with pytest.raises(ModelError, match="2 points with 1 rows of split"):
        Embeddings(np.array(["11", "21"]), np.zeros((2, 3)), columns=pl.DataFrame({"split": ["a"]}))
