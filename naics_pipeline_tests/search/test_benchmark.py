"""Any labelled file: several right codes, codes of another vintage, and the measures by hand."""

from pathlib import Path

import polars as pl
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.search.benchmark import benchmark, read_labels
from naics_pipeline.search.index import Index


def labels(tmp_path: Path, rows: list[tuple[str, str]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["says", "naics"], orient="row")
    frame.write_csv(tmp_path / "labels.csv")
    frame.write_parquet(tmp_path / "labels.parquet")
    read = read_labels(tmp_path / "labels.csv", "says", "naics")
    assert read.equals(read_labels(tmp_path / "labels.parquet", "says", "naics"))
    return read


def test_measures_confusions_and_errors(index: Index, tmp_path: Path) -> None:
    rows = [
        ("growing soybeans", "111110"),
        ("growing corn", "111110; 111150"),
        ("grooming of dogs", "812910 999990"),
        ("family restaurants with waiters", "722513"),
        ("growing corn", "999999"),
        ("", "111110"),
    ]
    found = benchmark(index, labels(tmp_path, rows))
    metrics = found.metrics
    assert (metrics["texts"], metrics["left_out"], metrics["other_codes"]) == (4, 2, 2)
    assert metrics["top1"] == 0.75
    assert metrics["top5"] == 1
    assert 0.75 < metrics["mrr"] <= 0.875
    assert metrics["top1_digits_4"] == 1
    assert 0 <= metrics["calibration_error"] <= 1
    assert found.confusions.rows() == [("722513", "722511", 1)]
    assert found.errors["text"].to_list() == ["family restaurants with waiters"]


def test_a_file_that_says_nothing_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(NaicsError, match="nothing to measure"):
        benchmark(index, labels(tmp_path, [("growing corn", "999999")]))
    with pytest.raises(NaicsError, match="no column 'text'"):
        read_labels(tmp_path / "labels.csv", "text", "naics")
    with pytest.raises(NaicsError, match="not a readable"):
        read_labels(tmp_path / "none.csv", "text", "naics")
