"""A stage that is cut short, killed, waited for or replaced: it goes on where it was, and nothing finished is lost."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from naics_pipeline.files import alone_in
from naics_pipeline.text_model import checkpoints
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.training import loop
from naics_pipeline.text_model.training import run as training_run
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.text_model.small import DYNAMIC, ONE_EPOCH, loss_of, settings_of, state_of


def test_a_run_goes_on_from_its_last_epoch_even_if_an_earlier_one_was_the_best(
    run, tiny_base: Path, monkeypatch
) -> None:
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(Objective, "total", lambda self, terms: loss_of(self, terms, losses))

    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 2:
            raise OSError("pulled the plug")

    epochs: list[int] = []
    with pytest.raises(OSError, match="pulled the plug"):
        run(settings_of(tiny_base), on_epoch=stop)
    losses = iter([3.0])
    result = run(settings_of(tiny_base), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [2]
    # The best is remembered, too.
    assert result.metrics["val/loss"] == 1.0
    best, last = (checkpoints.read_record(path)["epoch"] for path in (result.best, result.last))
    assert (best, last) == (0, 2)


def goes_on_as(resumed: loop.StageResult, unbroken: loop.StageResult) -> None:
    for left, right in zip(unbroken.history, resumed.history, strict=True):
        for name in ("train/loss", "val/loss", "val/query", "largest"):
            assert left[name] == right[name], name
    state = state_of(resumed.last)
    for name, value in state_of(unbroken.last).items():
        assert torch.equal(state[name], value)


def test_a_run_cut_short_goes_on_with_the_losses_of_an_unbroken_one(run, finished, tiny_base: Path) -> None:
    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError("pulled the plug")

    epochs: list[int] = []
    with pytest.raises(OSError, match="pulled the plug"):
        run(settings_of(tiny_base), on_epoch=stop)
    resumed = run(settings_of(tiny_base), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [1, 2]
    goes_on_as(resumed, finished)


def test_of_two_processes_that_train_a_stage_one_waits(run, tiny_base: Path, tmp_path: Path, caplog) -> None:
    with ThreadPoolExecutor(1) as other:
        with alone_in(tmp_path / "stages" / "first", "trains"):
            waiting = other.submit(run, settings_of(tiny_base), ONE_EPOCH)
            while "another process trains this stage" not in caplog.text:
                assert not waiting.done()
                time.sleep(0.05)
            assert not (tmp_path / "stages" / "first" / "best.safetensors").exists()
        assert waiting.result(60).best.is_file()


def test_a_run_that_lost_its_best_weights_begins_anew(run, tiny_base: Path, tmp_path: Path) -> None:
    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError("pulled the plug")

    with pytest.raises(OSError, match="pulled the plug"):
        run(settings_of(tiny_base), on_epoch=stop)
    (lost,) = tmp_path.glob("stages/first/.unfinished-*/best.safetensors")
    lost.unlink()
    epochs: list[int] = []
    assert run(settings_of(tiny_base), on_epoch=lambda epoch, values: epochs.append(epoch)).best.is_file()
    assert epochs == [0, 1, 2]


def test_kill_9_in_the_middle_of_an_epoch_costs_only_that_epoch(run, finished, tiny_base: Path, tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census
from naics_pipeline.text_model.training import loop, module
from naics_pipeline_tests.text_model import small
root, step = Path({str(tmp_path)!r}), module.StageModule.training_step
def slow(self, batch, index):
    if self.current_epoch == 1 and index == 2:
        print("MIDDLE", flush=True)
        time.sleep(300)
    return step(self, batch, index)
module.StageModule.training_step = slow
loop.train_stage(
    small.STAGE,
    small.settings_of(Path({str(tiny_base)!r})),
    **small.few_frames(census.read_source("sample", 2022, Download(), root)),
    token_cache=root / "token_cache",
    hidden_cache=root / "hidden",
    directory=root / "stages" / "first",
    start_from=None,
    metrics=lambda distances: {{"largest": float(distances.max())}},
    on_epoch=lambda epoch, values: None,
)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout
    assert any("MIDDLE" in line for line in process.stdout)
    # In the midst of a step, not on its way out for some other reason.
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    epochs: list[int] = []
    resumed = run(settings_of(tiny_base), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [1, 2]
    goes_on_as(resumed, finished)


def test_other_settings_do_not_resume_and_a_finished_stage_stays_until_the_next_is_done(
    run, stage_directory: Path, tiny_base: Path
) -> None:
    before = (stage_directory / checkpoints.BEST).read_bytes()

    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError("pulled the plug")

    with pytest.raises(OSError, match="pulled"):
        run(settings_of(tiny_base, hierarchy=2.0), on_epoch=stop)
    assert (stage_directory / checkpoints.BEST).read_bytes() == before
    assert len(list(stage_directory.glob(".unfinished-*"))) == 1
    epochs: list[int] = []
    run(settings_of(tiny_base, hierarchy=3.0), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [0, 1, 2]
    assert (stage_directory / checkpoints.BEST).read_bytes() != before
    assert not list(stage_directory.glob(".unfinished-*"))


@pytest.mark.parametrize("at", [checkpoints.BEST, "settings.yaml"])
def test_a_run_that_dies_while_its_stage_takes_its_place_leaves_the_old_or_the_new_one(
    run, stage_directory: Path, tiny_base: Path, monkeypatch, at: str
) -> None:
    old = checkpoints.read_stage(stage_directory)["key"]
    settings = settings_of(tiny_base, hierarchy=2.0)

    def replacing(path: Path):
        if path.name == at:
            raise OSError("pulled the plug")
        return whole(path)

    whole = training_run.replacing
    monkeypatch.setattr(training_run, "replacing", replacing)
    with pytest.raises(OSError, match="pulled"):
        run(settings)
    monkeypatch.undo()
    left = checkpoints.read_stage(stage_directory)
    assert (left["key"] == old) == (at == checkpoints.BEST)
    epochs: list[int] = []
    result = run(settings, on_epoch=lambda epoch, values: epochs.append(epoch))
    # Nothing is trained again.
    assert epochs == []
    assert len(result.history) == 3
    record = checkpoints.read_stage(stage_directory)
    assert record["key"] != old
    assert record["metrics"] == result.metrics
    assert not list(stage_directory.glob(".*finished-*"))


def test_an_unfinished_run_is_its_owners_alone(run, tiny_base: Path, tmp_path: Path) -> None:
    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError("pulled the plug")

    with pytest.raises(OSError, match="pulled"):
        run(settings_of(tiny_base), on_epoch=stop)
    (work,) = (tmp_path / "stages" / "first").glob(".unfinished-*")
    assert work.stat().st_mode & 0o777 == 0o700


def test_phases_follow_one_another_and_a_resumed_run_knows_where_it_was(
    run, train_in, tiny_base: Path, tmp_path: Path, caplog
) -> None:
    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 2:
            raise OSError("pulled the plug")

    with caplog.at_level("INFO"):
        unbroken = run(settings_of(tiny_base), DYNAMIC)
    said = caplog.text
    assert "first epoch 2: phase refinement begins" in said
    assert "first epoch 3: phase clusters begins" in said
    assert "first epoch 3: 8 clusters of " in said
    history = unbroken.history
    assert [values["curriculum/phase"] for values in history] == [0, 1, 2]
    assert [values.get("curriculum/router_guided_share") for values in history] == [None, pytest.approx(0.3), None]
    assert history[2]["false_negatives/clusters"] == 8
    assert history[2]["false_negatives/found"] > 0
    assert "false_negatives/found" not in history[1]
    assert {"train/rank", "train/attraction"} <= set(history[2])
    assert "train/attraction" not in history[1]
    root = tmp_path / "again"
    with pytest.raises(OSError, match="pulled the plug"):
        train_in(root, settings_of(tiny_base), DYNAMIC, on_epoch=stop)
    resumed = train_in(root, settings_of(tiny_base), DYNAMIC)
    goes_on_as(resumed, unbroken)
    for name in [name for name in history[2] if name.startswith(("negatives/", "false_negatives/", "curriculum/"))]:
        assert resumed.history[2][name] == history[2][name], name
