"""Frames on disk, and MLflow runs that end as their bodies did."""

import stat
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from naics_pipeline import definitions
from naics_pipeline.config import Config
from naics_pipeline.errors import NaicsError
from naics_pipeline.resources import (
    TrackedRun,
    Tracking,
    tracking_directory,
    without_credentials,
    without_credentials_in,
)
from naics_pipeline.storage import Store
from naics_pipeline_tests.conftest import REPOSITORY


@dg.asset
def measured(context: dg.AssetExecutionContext, conf: dg.ResourceParam[Config], tracking: Tracking) -> None:
    """Fails on seed 13, and is interrupted on seed 14."""
    with tracking.start_run(context, conf.flat(), stage="01_easy") as run:
        run.log_metrics({"ndcg@10": 0.5, "collapse": False}, 3)
        run.log_bytes(b"png", "plots/curve.png")
        run.log_inputs({"descriptions": "abc123"}, "data")
        run.log_result({"query_top1": 0.25})
        if conf.settings.seed == 13:
            raise NaicsError("no luck")
        if conf.settings.seed == 14:
            raise KeyboardInterrupt


@dg.asset
def frame(conf: dg.ResourceParam[Config]) -> pl.DataFrame:
    """Fails halfway through the writing on seed 13."""
    if conf.settings.seed == 13:
        return pl.DataFrame({"a": [object()]})
    return pl.DataFrame({"a": [conf.settings.seed]})


def run(asset: dg.AssetsDefinition, data_dir: Path, **overrides) -> dg.ExecuteInProcessResult:
    config = {"profile": "sample", "overrides": {"data_dir": str(data_dir), **overrides}}
    return dg.materialize(
        [asset],
        resources=definitions.default_resources(),
        run_config={"resources": {"conf": {"config": config}}},
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """Three materializations of `measured`, and MLflow's record of each by status."""
    from mlflow import MlflowClient

    data_dir = tmp_path_factory.mktemp("data")
    finished = run(measured, data_dir, seed=1)
    run(measured, data_dir, seed=13)
    run(measured, data_dir, seed=14)
    client = MlflowClient(tracking_uri=f"sqlite:///{data_dir}/mlflow/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "naics-pipeline"]
    found = client.search_runs([experiment.experiment_id], "tags.role = 'asset'")
    runs = {run.info.status: run for run in found}
    return finished, client, runs


def test_a_run_ends_as_its_body_did(tracked):
    _, _, runs = tracked
    assert set(runs) == {"FINISHED", "FAILED", "KILLED"}
    assert {status: found.data.params["seed"] for status, found in runs.items()} == {
        "FINISHED": "1",
        "FAILED": "13",
        "KILLED": "14",
    }


def test_a_run_and_its_materialization_point_at_each_other(tracked):
    result, _, runs = tracked
    recorded = runs["FINISHED"]
    (event,) = result.asset_materializations_for_node("measured")
    assert event.metadata["mlflow_run_id"].value == recorded.info.run_id
    assert recorded.info.run_id in event.metadata["mlflow_run"].value
    assert recorded.data.tags["dagster.run_id"] == result.run_id
    assert result.run_id in recorded.data.tags["dagster.run_url"]


def test_runs_can_be_told_apart_by_stage_and_profile(tracked):
    _, _, runs = tracked
    tags = runs["FINISHED"].data.tags
    assert (tags["asset"], tags["stage"], tags["profile"], tags["source"], tags["vintage"]) == (
        "measured",
        "01_easy",
        "sample",
        "sample",
        "2022",
    )


def test_parameters_are_flat_and_metrics_keep_their_step(tracked):
    _, client, runs = tracked
    recorded = runs["FINISHED"]
    assert recorded.data.params["model.adapters.short.rank"] == "16"
    (point,) = client.get_metric_history(recorded.info.run_id, "ndcg_at_10")
    assert (point.value, point.step) == (0.5, 3)
    artifacts = client.list_artifacts(recorded.info.run_id, "plots")
    assert [artifact.path for artifact in artifacts] == ["plots/curve.png"]
    assert Path(recorded.info.artifact_uri, "plots", "curve.png").read_bytes() == b"png"


def test_a_run_says_which_data_it_read(tracked):
    _, _, runs = tracked
    (read,) = runs["FINISHED"].inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("descriptions", "abc123")


def test_each_dagster_run_is_a_parent_that_ends_as_its_children_and_has_their_results(tracked):
    _, client, runs = tracked
    experiment = runs["FINISHED"].info.experiment_id
    for status, child in runs.items():
        parent = client.get_run(child.data.tags["mlflow.parentRunId"])
        assert parent.info.status == status
        assert parent.data.tags["role"] == "pipeline"
        assert parent.data.metrics == {"query_top1": 0.25}
    best = client.search_runs(
        [experiment],
        "tags.role = 'pipeline' and tags.profile = 'sample' and attributes.status = 'FINISHED'",
        order_by=["metrics.query_top1 DESC"],
    )
    assert [run.data.tags["seed"] for run in best] == ["1"]


def test_a_frame_that_cannot_be_written_leaves_the_old_one(tmp_path):
    assert run(frame, tmp_path, seed=7).success
    assert not run(frame, tmp_path, seed=13).success
    assert pl.read_parquet(tmp_path / "frame.parquet")["a"].to_list() == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["frame.parquet"]


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", no_space)
    result = run(frame, tmp_path, seed=7)
    said = next(event for event in result.all_events if event.is_step_failure).step_failure_data.error.to_string()
    assert "frame.parquet: could not be written (No space left on device)" in said
    assert "NAICS_DATA_DIR" in said


def test_frames_can_live_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("NAICS_CACHE_DIR", str(tmp_path / "cache"))
    root = f"memory://{tmp_path.name}"
    assert run(frame, root, seed=7).success
    assert pl.read_parquet(Store(root, tmp_path / "elsewhere").local("frame.parquet"))["a"].to_list() == [7]


def test_without_a_server_the_runs_of_a_remote_root_lie_in_the_project(tmp_path, monkeypatch):
    """Not below a directory that is called like the bucket."""
    monkeypatch.setenv("NAICS_CACHE_DIR", str(tmp_path / "cache"))
    assert tracking_directory(Store("memory://bucket/data")) == REPOSITORY / "data" / "mlflow"
    assert tracking_directory(Store(str(tmp_path))) == tmp_path / "mlflow"


def test_only_the_user_may_read_runs_and_artifacts(tracked):
    _, _, runs = tracked
    directory = Path(runs["FINISHED"].info.artifact_uri).parents[2]
    assert directory.name == "mlflow"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_links_hold_no_credentials():
    assert without_credentials("https://me:secret@runs.example:5000/x?y=1") == "https://runs.example:5000/x?y=1"
    assert without_credentials("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    said = "no answer from postgresql://me:secret@runs.example/x and http://runs.example"
    assert without_credentials_in(said) == "no answer from postgresql://runs.example/x and http://runs.example"


class Flaky:
    """A client whose server answers while it is there."""

    def __init__(self) -> None:
        self.is_there, self.taken, self.status = True, [], None

    def log_batch(self, run_id, metrics=(), params=()):
        if not self.is_there:
            raise MlflowException("no answer from http://me:secret@runs.example")
        self.taken += [(metric.key, metric.step) for metric in metrics]

    def set_terminated(self, run_id, status):
        self.log_batch(run_id)
        self.status = status


def test_metrics_wait_while_the_server_is_gone(caplog):
    client = Flaky()
    run = TrackedRun(client, "1", "")
    for step, client.is_there in enumerate((True, False, False, True)):
        run.log_metrics({"loss": 1.0}, step)
    run.end("FINISHED")
    assert client.taken == [("loss", step) for step in range(4)]
    assert client.status == "FINISHED"
    assert "2 values of metrics wait, the work goes on" in caplog.text
    assert "secret" not in caplog.text


def test_what_a_server_that_stays_away_never_got_is_said(caplog):
    client = Flaky()
    run = TrackedRun(client, "1", "")
    client.is_there = False
    run.log_metrics({"loss": 1.0, "accuracy": 0.5})
    run.log_params({"seed": 1})
    run.end("FAILED")
    assert "the run stays open and 2 values of metrics are lost" in caplog.text
    assert "parameters are lost" in caplog.text
