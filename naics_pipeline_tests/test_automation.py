"""The sensor on the source's files, and a schedule that cannot be."""

import dagster as dg
import pytest

from naics_pipeline import automation, config
from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store


@pytest.fixture
def tick(tmp_path, monkeypatch):
    """Evaluates the sensor with a cursor, on a source directory of which the checksums are those of its files."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "codes").write_text("1")
    monkeypatch.setattr(
        automation.census,
        "source_checksums",
        lambda *_: {path.name: path.read_text() for path in source.iterdir()},
    )
    conf = config.load("sample", {"data_dir": str(tmp_path / "data")}, {})

    def evaluate(cursor: str | None):
        context = dg.build_sensor_context(
            cursor=cursor, resources={"conf": conf, "store": Store(conf.settings.data_dir)}
        )
        return automation.source_changed(context), context.cursor

    evaluate.source = source
    return evaluate


def test_the_first_tick_only_remembers(tick):
    result, cursor = tick(None)
    assert isinstance(result, dg.SkipReason)
    assert cursor


def test_nothing_is_asked_for_while_nothing_changes(tick):
    _, cursor = tick(None)
    result, after = tick(cursor)
    assert isinstance(result, dg.SkipReason)
    assert after == cursor


def test_a_changed_file_asks_for_a_run_once(tick):
    _, cursor = tick(None)
    (tick.source / "codes").write_text("2")
    result, cursor = tick(cursor)
    (request,) = result.run_requests
    assert request.tags == {"source_changed": "codes"}
    result, _ = tick(cursor)
    assert isinstance(result, dg.SkipReason)


def test_a_file_that_disappears_is_a_change(tick):
    (tick.source / "index").write_text("1")
    _, cursor = tick(None)
    (tick.source / "index").unlink()
    result, _ = tick(cursor)
    assert result.run_requests


def test_a_schedule_that_is_no_cron_expression_is_refused(monkeypatch):
    broken = config.load("sample", {"orchestration.retraining_schedule": "monthly"}, {})
    monkeypatch.setattr(automation, "defined_conf", lambda: broken)
    with pytest.raises(SettingsError, match=r"--set orchestration.retraining_schedule.*'monthly'"):
        automation.retraining_schedule()
