"""Two processes that train a stage together: they make what one alone makes of the same batches, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.nn.parallel import DistributedDataParallel

from naics_pipeline.errors import SettingsError, TrainingError
from naics_pipeline.settings import Settings
from naics_pipeline.text_model import checkpoints
from naics_pipeline.text_model.curriculum.stage import Buckets, FalseNegatives, Mined, RouterGuided
from naics_pipeline.text_model.losses import LOSSES
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training import launch, processes
from naics_pipeline.text_model.training.batches import Plan, epoch
from naics_pipeline.text_model.training.inputs import load_inputs
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline.text_model.training.outlook import prepare
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.text_model.small import STAGE, Frames, changed, settings_of, whole

BUCKETS = Buckets(difficulty_buckets=(1, 6), bucket_percentages={1: 0.5, 6: 0.5})
EVERYTHING = STAGE.model_copy(
    update={
        "negatives": Mined(pool="batch", share=0.5, rest=RouterGuided(share=0.25, rest=BUCKETS)),
        "false_negatives": FalseNegatives(mode="attract", clusters=6),
        "attraction": 1.0,
    }
)


def all_losses(base: Path) -> Settings:
    """Every term on, batches that do not divide by two, and no dropout in the transformer, where each draws its own."""
    settings = settings_of(base, {"dropout": 0.0}, in_batch_negatives=True, **dict.fromkeys(LOSSES, 1.0))
    return whole(settings, queries_per_batch=31, live_codes=33)


# The loss and its gradient


class _Step(torch.nn.Module):
    def __init__(self, module: StageModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = self.module.read_and_score(batch)
        return self.module.objective.total(terms), terms


def loss_and_gradients(settings: Settings, frames: Frames, place: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of the second of two batches that make one step, by a model whose every part says something."""
    torch.manual_seed(0)
    model = TextModel(Path(settings.model.base), settings, frames["descriptions"]["code"].to_list())
    places = {"token_cache": place / "tokens", "hidden_cache": place / "states"}
    with processes.leader_first():
        inputs = load_inputs(**frames, settings=settings, **places, model=model)
    plan = Plan.of(inputs, EVERYTHING, settings)
    module = StageModule(model, plan, 10, lambda distances: {})
    module.tables.renew(model)
    model.fusion.start_from(module.tables.short.values, torch.from_numpy(inputs.short.code))
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    module.tables.renew(model)
    prepare(module.state, plan, model, module.tables)
    first, second = (batch for batch, _ in zip(epoch(plan, module.state), range(2), strict=False))
    step: torch.nn.Module = _Step(module.train())
    if processes.world() > 1:
        step = DistributedDataParallel(step, find_unused_parameters=True, forward_sync_buffers=False)
    torch.manual_seed(1)
    with torch.no_grad():
        step(first)
    loss, terms = step(second)
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    tables = {"short": module.tables.short.values, "description": module.tables.long["description"].values}
    return {"terms": {name: value.detach() for name, value in terms.items()}, "gradients": gradients, "tables": tables}


def _one_of_two(rank: int, settings: Settings, frames: Frames, place: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    torch.save(loss_and_gradients(settings, frames, place), place / f"found-{rank}")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tiny_base: Path, frames, tmp_path: Path) -> None:
    settings = all_losses(tiny_base)
    alone = loss_and_gradients(settings, frames, tmp_path)
    assert alone["terms"].keys() == LOSSES.keys()
    assert all(value != 0 for value in alone["terms"].values())
    multiprocessing.spawn(_one_of_two, (settings, frames, tmp_path), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"found-{rank}")
        for kind, values in alone.items():
            assert found[kind].keys() == values.keys()
            for name, value in values.items():
                torch.testing.assert_close(found[kind][name], value, atol=1e-5, rtol=1e-5, msg=f"{rank} {name}")
    # Each part of the model has learned something.
    moved = {name for name, value in alone["gradients"].items() if value.abs().max() > 0}
    for part in (".short.", ".description.", ".excluded.", "fusion.experts", "offset", "log_scale"):
        assert any(part in name for name in moved), part


# A whole stage


def two(settings: Settings) -> Settings:
    return changed(settings, "training", devices=2)


@pytest.mark.slow
def test_a_stage_of_two_processes_gives_what_one_gives(train_in, tiny_base: Path, tmp_path: Path) -> None:
    # Neither draws nor weights follow the order of codes here: where they do, rounding decides which are nearest, and
    # the two part. Of one step all terms are compared above.
    settings = changed(all_losses(tiny_base), "objective", attraction=0.0, rank=0.0)
    settings = changed(settings, "training", queries_per_epoch=128, accumulate=3)
    alone, together = train_in(tmp_path / "one", settings), train_in(tmp_path / "two", two(settings))
    assert not dist.is_initialized()
    assert "RANK" not in os.environ
    for left, right in zip(alone.history, together.history, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"seconds"}:
            assert left[name] == pytest.approx(right[name], rel=1e-4, abs=1e-5), name
    # The same files, and nothing left of the run.
    names = [sorted(path.name for path in result.best.parent.iterdir()) for result in (alone, together)]
    assert names[0] == names[1] == ["best.safetensors", "last.safetensors", "settings.yaml"]
    keys = [checkpoints.read_stage(result.best.parent)["key"] for result in (alone, together)]
    assert keys[0] == keys[1]
    np.testing.assert_allclose(together.codes.points, alone.codes.points, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_others_and_the_run_goes_on_later(
    train_in, tiny_base: Path, tmp_path: Path
) -> None:
    settings, epochs = two(settings_of(tiny_base)), []

    def kill(number: int, values: dict[str, float]) -> None:
        if number == 1:
            os.kill(_children()[0], signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"process 1 of 2 \(training.devices\) ended before its time, with code -9"):
        train_in(tmp_path, settings, on_epoch=kill)
    assert not _children()
    result = train_in(tmp_path, settings, on_epoch=lambda number, values: epochs.append(number))
    assert epochs in ([1, 2], [2])
    assert len(result.history) == 3


def _children(of: int | None = None) -> list[int]:
    """Processes that a process, this one unless named, has started for its stage."""
    parent = str(os.getpid() if of is None else of)
    found = subprocess.run(["pgrep", "-P", parent, "-f", "training.worker"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


SCRIPT = """
import os, sys, time
from pathlib import Path
from naics_pipeline.settings import Download, Settings
from naics_pipeline.taxonomy import census
from naics_pipeline.text_model.training import loop
from naics_pipeline_tests.text_model import small
root = Path(sys.argv[1])
def follow(epoch, values):
    print("EPOCH", epoch, flush=True)
    if epoch == 1 and "--wait" in sys.argv:
        time.sleep(300)
loop.train_stage(
    small.STAGE,
    Settings.model_validate_json((root / "settings.json").read_text()),
    **small.few_frames(census.read_source("sample", 2022, Download(), root)),
    token_cache=root / "token_cache",
    hidden_cache=root / "hidden",
    directory=root / "stages" / "first",
    start_from=None,
    metrics=lambda distances: {"largest": float(distances.max())},
    on_epoch=follow,
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_takes_its_processes_along(tiny_base: Path, tmp_path: Path, by: signal.Signals) -> None:
    settings = two(settings_of(tiny_base))
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    process = _started([sys.executable, "-c", SCRIPT, str(tmp_path), "--wait"])
    assert process.stdout
    assert any("EPOCH 1" in line for line in process.stdout)
    (worker,) = _children(process.pid)
    process.send_signal(by)
    assert process.wait(60) != 0
    _is_gone(worker)
    # What was finished is there, for the next run.
    (unfinished,) = (tmp_path / "stages" / "first").glob(".unfinished-*/last.ckpt")
    assert unfinished.stat().st_size > 0


def _started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )


def _is_gone(process: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process} is still there")


@pytest.mark.slow
def test_torchrun_starts_the_processes_of_several_machines(train_in, tiny_base: Path, tmp_path: Path) -> None:
    settings = settings_of(tiny_base, {"dropout": 0.0})
    (tmp_path / "settings.json").write_text(changed(settings, "training", nodes=2).model_dump_json())
    (tmp_path / "train.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    trains = [
        "-m",
        "naics_pipeline.text_model.training.worker",
        sys.executable,
        str(tmp_path / "train.py"),
        str(tmp_path),
    ]
    machines = [_started([*torchrun, "--node-rank", str(rank), *trains]) for rank in range(2)]
    said = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert [line for line in said[0].splitlines() if line.startswith("EPOCH")] == ["EPOCH 0", "EPOCH 1", "EPOCH 2"]
    assert "EPOCH" not in said[1]
    alone = train_in(tmp_path / "alone", settings)
    found = checkpoints.read_stage(tmp_path / "stages" / "first")
    assert found["metrics"]["val/loss"] == pytest.approx(alone.metrics["val/loss"], rel=1e-4)


# What is refused


def test_processes_that_cannot_be_are_refused(run, tiny_base: Path, monkeypatch) -> None:
    settings = settings_of(tiny_base)
    with pytest.raises(SettingsError, match=r"training.nodes: 2 machines .* torchrun"):
        run(changed(settings, "training", nodes=2))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SettingsError, match=r"devices 2 on training.nodes 1 make 2 processes, but torchrun started 4"):
        run(two(settings))


def test_a_worker_that_does_not_start_is_named(monkeypatch, run, tiny_base: Path) -> None:
    monkeypatch.setattr(launch, "WORKER", "naics_pipeline.no_such_module")
    with pytest.raises(TrainingError, match=r"process 1 of 2 .* ended before its time, with code 1"):
        run(two(settings_of(tiny_base)))
