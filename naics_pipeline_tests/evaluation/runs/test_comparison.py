"""Two runs compared: what is planted is found, with its sign; runs are found by any of their names."""

import re
from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.runs.comparison import compare_runs, find_run
from naics_pipeline.evaluation.runs.page import render
from naics_pipeline.evaluation.runs.scores import RunRecord, runs_in, scores_frame, write_scores
from naics_pipeline.storage import Store

KEYS = [f"{code} text" for code in range(400)]


def keep(directory: Path, run: str, shift: float = 0.0, keys: list[str] = KEYS, **settings: object) -> RunRecord:
    """A run whose query_mrr is moved by `shift`, whose mean_rank_edges falls by it, and one text that got worse."""
    noise = np.random.default_rng(0).uniform(size=len(keys))
    mrr = noise + shift
    mrr[3] = noise[3] - 50 * shift
    scores = {
        "query_mrr": mrr,
        "distortion_mean": noise - shift,
        "ndcg@10": noise,
        "radius_mean_level_2": noise + shift,
    }
    metrics = {name: float(values.mean()) for name, values in scores.items()} | {"distortion_worst": 3.0, "x": None}
    origin = {"settings": {"seed": 1, **settings}, "data": {"descriptions": str(settings)}}
    record = {
        "metrics": {"text": metrics},
        "measured": {"text": {"origin": origin}},
        "evaluated": {"run_id": run, "mlflow_run_id": f"mlflow-{run}", "created": "2026-01-01T00:00:00+00:00"},
        "curves": {"01_easy": [{"train/loss": 1.0}, {"train/loss": 0.5}], "graph": [{"loss": 1.0}]},
    }
    write_scores(directory / "scores" / run / "text.parquet", run, {"text": scores_frame(keys, scores)}, record)
    return next(found for found in runs_in(Store(str(directory))) if found.name == run)


def test_what_was_planted_is_found_with_its_direction(tmp_path: Path) -> None:
    found = compare_runs(keep(tmp_path, "a"), keep(tmp_path, "b", 0.01))
    rows = {row.metric: row for row in found.differences}
    assert {name: row.verdict for name, row in rows.items()} == {
        "query_mrr": "better",
        "distortion_mean": "better",
        "ndcg@10": "no difference",
        "radius_mean_level_2": "changed",
        "distortion_worst": "",
        "x": "",
    }
    assert rows["distortion_mean"].change == pytest.approx(-0.01)
    assert rows["distortion_worst"].change == 0
    assert rows["query_mrr"].comparison is not None
    assert rows["query_mrr"].comparison.n == len(KEYS)
    worst = found.changed[("text", "query_mrr")].row(0, named=True)
    assert worst["key"] == "3 text"
    assert worst["change"] == pytest.approx(-0.5)
    assert ("text", "ndcg@10") not in found.changed


def test_settings_and_data_that_differ_are_named(tmp_path: Path) -> None:
    found = compare_runs(keep(tmp_path, "a", dim=32), keep(tmp_path, "b", dim=64, new=1))
    assert found.settings == {"dim": (32, 64), "new": (None, 1)}
    assert set(found.data) == {"descriptions"}
    assert compare_runs(keep(tmp_path, "c"), keep(tmp_path, "d")).settings == {}


def test_only_what_both_scored_is_compared(tmp_path: Path) -> None:
    first, second = keep(tmp_path, "a"), keep(tmp_path, "b", 0.01, keys=KEYS[:100])
    (row,) = (row for row in compare_runs(first, second).differences if row.metric == "ndcg@10")
    assert row.comparison is not None
    assert row.comparison.n == 100
    with pytest.raises(NaicsError, match="no code and no text in common"):
        compare_runs(first, keep(tmp_path, "c", keys=["other"] * 10))


def test_the_page_has_every_metric_and_fetches_nothing(tmp_path: Path) -> None:
    first = keep(tmp_path, "a", text="<script>")
    others = (keep(tmp_path, "b", 0.01), keep(tmp_path, "c", -0.01))
    page = render([compare_runs(first, other) for other in others], {"3 text": "What it is called"})
    assert page.count("<td title=") == 12
    assert '<td>3 text <span class="soft">What it is called</span></td>' in page
    assert page.count("<img") == 2
    assert "2 metrics are better, 0 worse, 1 do not differ" in page
    assert not re.search(r"https?://|<link|src=[^\"]|@import|url\(", page)
    assert page.count("<script") == 1


def test_a_run_goes_by_each_of_its_names_and_by_its_directory(tmp_path: Path) -> None:
    for run in ("aaa1", "aaa2"):
        keep(tmp_path, run)
    store = Store(str(tmp_path))
    assert find_run("aaa2", store).name == find_run("mlflow-aaa2", store).name == "aaa2"
    assert find_run(str(tmp_path / "scores" / "aaa1"), store).name == "aaa1"
    assert find_run(str(tmp_path), store).name in ("aaa1", "aaa2")
    with pytest.raises(NaicsError, match=r"2 runs begin so: aaa. \(2026"):
        find_run("aaa", store)
    with pytest.raises(NaicsError, match="no such run; evaluated were: aaa"):
        find_run("zzz", store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NaicsError, match="holds no scores"):
        find_run(str(tmp_path / "empty"), store)
