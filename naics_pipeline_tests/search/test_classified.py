"""A file that the settings name is coded by an asset of its own."""

import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from naics_pipeline import config
from naics_pipeline.assets.search import classified_assets
from naics_pipeline.assets.supplied import FILE_TO_CLASSIFY, content_of
from naics_pipeline.definitions import default_resources
from naics_pipeline.search.index import Index
from naics_pipeline_tests import runs

TEXTS = ["growing soybeans", "", "pizza, delivery"]


def coded(data_dir: Path, **chosen: str) -> dg.ExecuteInProcessResult:
    overrides = {f"classification.{key}": value for key, value in chosen.items()} | {"data_dir": str(data_dir)}
    return dg.materialize(
        classified_assets(config.load("sample", overrides)),
        resources=default_resources(),
        run_config={"resources": {"conf": {"config": {"profile": "sample", "overrides": overrides}}}},
        raise_on_error=False,
    )


@pytest.fixture
def data_dir(index_path: Path, tmp_path: Path) -> Path:
    shutil.copytree(index_path, tmp_path / "data" / "naics_index")
    pl.DataFrame({"what": TEXTS}).write_csv(tmp_path / "firms.csv")
    return tmp_path / "data"


def test_without_a_file_there_is_no_such_asset() -> None:
    assert classified_assets(config.load("sample", {})) == []


def test_every_row_is_coded_and_the_index_is_named(data_dir: Path, index: Index, tmp_path: Path) -> None:
    result = coded(data_dir, file=str(tmp_path / "firms.csv"), text="what", top="1")
    assert result.success
    written = pl.read_parquet(data_dir / "classified.parquet")
    assert written["what"].fill_null("").to_list() == TEXTS
    assert written["code_1"].null_count() == 1
    assert "code_2" not in written.columns
    said = runs.metadata(result, "classified")
    assert (said["dagster/row_count"], said["rows_without_text"]) == (3, 1)
    assert said["index_version"] == index.version
    again = coded(data_dir, file=str(tmp_path / "firms.csv"), text="what", top="1")
    assert runs.data_version(again, "classified") == runs.data_version(result, "classified")


def test_a_directory_is_coded_file_by_file(data_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "firms").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "firms.csv", tmp_path / "firms" / f"{name}.csv")
    result = coded(data_dir, file=str(tmp_path / "firms"), text="what")
    assert result.success
    said = runs.metadata(result, "classified")
    assert (said["dagster/row_count"], said["rows_without_text"], said["files_done_earlier"]) == (6, 2, 0)
    again = coded(data_dir, file=str(tmp_path / "firms"), text="what")
    assert runs.metadata(again, "classified")["files_done_earlier"] == 2
    assert runs.data_version(again, "classified") == runs.data_version(result, "classified")
    assert pl.read_csv(data_dir / "classified" / "b.csv")["code_1"].null_count() == 1


def test_another_file_of_a_directory_is_other_content(tmp_path: Path) -> None:
    (tmp_path / "firms").mkdir()
    conf = config.load("sample", {"classification.file": str(tmp_path / "firms")})
    found = set()
    for name in ("a.csv", "b.csv", ".hidden.csv"):
        (tmp_path / "firms" / name).write_text("what")
        found.add(content_of(conf, FILE_TO_CLASSIFY))
    assert len(found) == 2


def test_a_missing_column_is_named(data_dir: Path, tmp_path: Path) -> None:
    result = coded(data_dir, file=str(tmp_path / "firms.csv"), text="activity")
    assert not result.success
    assert "has no column 'activity'. It has what" in runs.failure(result)
    assert not (data_dir / "classified.parquet").exists()
