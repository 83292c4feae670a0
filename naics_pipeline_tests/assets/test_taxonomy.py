"""The data assets as a run makes them: files, what the UI shows, versions, and what a failure leaves behind."""

import polars as pl
import pytest

from naics_pipeline import config
from naics_pipeline.assets import taxonomy
from naics_pipeline.errors import SettingsError
from naics_pipeline_tests import runs

FRAMES = ["index_entries", "descriptions", "activity_phrases", "relations", "distances"]


@pytest.mark.parametrize("name", FRAMES)
def test_declared_columns_are_those_of_the_file(name, data_run, data_dir):
    declared = getattr(taxonomy, name).metadata_by_key[getattr(taxonomy, name).key]["dagster/column_schema"]
    frame = pl.read_parquet(data_dir / f"{name}.parquet")
    assert [column.name for column in declared.columns] == frame.columns
    assert all(column.description for column in declared.columns)


@pytest.mark.parametrize("name", FRAMES)
def test_the_ui_is_told_rows_and_size(name, data_run, data_dir):
    metadata = runs.metadata(data_run, name)
    path = data_dir / f"{name}.parquet"
    assert metadata["dagster/row_count"] == pl.read_parquet(path).height
    assert metadata["size_bytes"] == path.stat().st_size


def test_a_data_version_follows_the_content_alone(data_run, tmp_path):
    again = runs.materialize('key:"descriptions" or key:"index_entries"', tmp_path)
    other = runs.materialize("index_entries", tmp_path, taxonomy__held_out_fraction=0.5)
    for name in ("descriptions", "index_entries"):
        assert runs.data_version(again, name) == runs.data_version(data_run, name)
    assert runs.data_version(other, "index_entries") != runs.data_version(data_run, "index_entries")


def test_the_split_is_that_of_the_settings_and_its_sizes_are_shown(data_run, data_dir):
    entries = pl.read_parquet(data_dir / "index_entries.parquet")
    shares = {split: count / entries.height for split, count in entries["split"].value_counts().iter_rows()}
    assert shares == pytest.approx({"train": 0.72, "validation": 0.08, "held_out": 0.2}, abs=0.03)
    shown = {record.data["split"] for record in runs.metadata(data_run, "index_entries")["splits"].records}
    assert shown == shares.keys()


def test_no_unseen_entry_is_found_by_the_checks(data_run):
    found = {
        (check.asset_key.to_user_string(), check.check_name): check.passed
        for check in data_run.get_asset_check_evaluations()
    }
    assert found["descriptions", "nothing_held_out"]
    assert found["activity_phrases", "nothing_held_out"]


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    config.load("sample", {"taxonomy.held_out_fraction": "0.9"}, {})
    with pytest.raises(SettingsError, match="no index entry to train on"):
        config.load("sample", {"taxonomy.held_out_fraction": "0.95"}, {})


def test_a_bad_source_fails_with_its_message_and_leaves_the_last_good_files(data_run, data_dir, tmp_path):
    before = {path: path.read_bytes() for path in data_dir.glob("*.parquet")}
    (tmp_path / "2-6 digit_2022_Codes.xlsx").write_bytes(b"PK truncated")
    result = runs.materialize('+key:"descriptions"', data_dir, source=str(tmp_path))
    assert not result.success
    assert str(tmp_path) in runs.failure(result)
    assert {path: path.read_bytes() for path in data_dir.glob("*.parquet")} == before
    assert not list(data_dir.glob(".*"))


def test_an_absent_input_is_named_with_the_way_out(tmp_path):
    result = runs.materialize("distances", tmp_path)
    assert "--select '*descriptions'" in runs.failure(result)


def test_an_unknown_setting_in_run_config_is_refused(tmp_path):
    result = runs.materialize("index_entries", tmp_path, sead=1)
    assert not result.success
    assert not list(tmp_path.iterdir())


def test_an_output_of_other_settings_than_the_definitions_does_not_count_as_fresh(data_run, tmp_path):
    other = runs.materialize("index_entries", tmp_path, taxonomy__held_out_fraction=0.5)
    defined = taxonomy.index_entries.code_versions_by_key[taxonomy.index_entries.key]
    assert runs.code_version(data_run, "index_entries") == defined
    assert runs.code_version(other, "index_entries") != defined
    assert runs.metadata(other, "index_entries")["run_config_changes"] == {"taxonomy.held_out_fraction": "0.5"}
    assert "run_config_changes" not in runs.metadata(data_run, "index_entries")
