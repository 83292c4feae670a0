"""Scores of a run: kept with their record, read again as a run, and never those of another."""

from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.runs.scores import COLUMNS, RunRecord, runs_in, scores_frame, text_keys, write_scores
from naics_pipeline.storage import Store


def record(run: str, created: str = "2026-01-01T00:00:00+00:00", **more: object) -> dict[str, object]:
    evaluated = {"run_id": run, "mlflow_run_id": f"m-{run}", "created": created, "settings": {"seed": 1}}
    measured = {"text": {"space": "v1", "origin": {"settings": {"model.base": "x"}}}}
    return {"metrics": {"text": {"a": 0.5}}, "measured": measured, "evaluated": evaluated, "curves": {}, **more}


def keep(directory: Path, run: str, evaluation: str = "text", **more: object) -> None:
    frame = scores_frame(["11", "21"], {"a": np.array([0.25, 0.75]), "b": np.array([np.nan, 1.0])})
    write_scores(directory / "scores" / run / f"{evaluation}.parquet", run, {evaluation: frame}, record(run, **more))


def test_scores_are_kept_by_run_space_metric_and_key(tmp_path: Path) -> None:
    keep(tmp_path, "r1")
    keep(tmp_path, "r1", "refined", gate=[{"metric": "a"}], metrics={"refined": {"a": None}})
    (run,) = runs_in(Store(str(tmp_path)))
    scores = run.scores()
    assert tuple(scores.columns) == COLUMNS
    assert scores.filter(space="text").rows() == [
        ("r1", "text", "a", "11", 0.25),
        ("r1", "text", "a", "21", 0.75),
        ("r1", "text", "b", "21", 1.0),
    ]
    assert run.metrics == {"text": {"a": 0.5}, "refined": {"a": None}}
    assert run.settings == {"seed": 1, "model.base": "x"}
    assert run.gate == [{"metric": "a"}]
    assert run.ids == {"r1", "m-r1"}


def test_runs_come_newest_first_and_none_replaces_another(tmp_path: Path) -> None:
    assert runs_in(Store(str(tmp_path))) == []
    for run, day in (("r1", 1), ("r3", 3), ("r2", 2)):
        keep(tmp_path, run, created=f"2026-01-0{day}T00:00:00+00:00")
    assert [run.name for run in runs_in(Store(str(tmp_path)))] == ["r3", "r2", "r1"]


def test_a_remote_directory_has_the_same_runs(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
    for run in ("r1", "r2"):
        keep(store.directory, run)
        store.publish(f"scores/{run}/text.parquet")
    elsewhere = Store(f"memory://{tmp_path.name}", cache=tmp_path / "other")
    assert {run.name for run in runs_in(elsewhere)} == {"r1", "r2"}
    assert runs_in(elsewhere)[0].scores().height == 3


def test_another_file_is_no_file_of_scores(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    scores_frame([], {}).write_parquet(path)
    with pytest.raises(NaicsError, match=r"x\.parquet: no file of scores"):
        RunRecord.read([path])


def test_a_text_is_called_by_its_right_code_and_its_words() -> None:
    assert text_keys(["111110"], ["Soybean farming"]).to_list() == ["111110 Soybean farming"]
