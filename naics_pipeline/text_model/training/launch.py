"""Starts the other processes of a stage, or meets those that torchrun has started; they end with this one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as lightning
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from naics_pipeline.errors import SettingsError, TrainingError
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.device import resolve
from naics_pipeline.text_model.training.processes import told

WORKER = "naics_pipeline.text_model.training.worker"
SECONDS_TO_START, SECONDS_TO_END = 300, 30
_HOST = "127.0.0.1"
_Workers = list[subprocess.Popen[bytes]]


@contextmanager
def together(settings: Settings, job: Any) -> Iterator[None]:
    """Inside, `training.devices` processes on each of `training.nodes` machines train the job; this is the first.

    Raises:
        SettingsError: there are not so many devices, or torchrun has not started so many processes.
        TrainingError: another process ended before its time.
    """
    _check(settings)
    if settings.training.devices * settings.training.nodes == 1:
        yield
    elif _by_torchrun():
        with member({}):
            told(job)
            yield
    else:
        with _on_this_machine(settings.training.devices):
            told(job)
            yield


@contextmanager
def member(variables: Mapping[str, str], store: dist.Store | None = None) -> Iterator[None]:
    """Makes this process one of a group.

    Args:
        variables: of the environment, as torchrun sets them; Lightning reads them, too.
        store: where the members meet; None: where MASTER_ADDR and MASTER_PORT say.
    """
    before = dict(os.environ)
    os.environ.update(variables)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group(store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


class EndAtOnce(Callback):
    """SIGTERM ends one of several processes where it stands, and the others with it.

    Lightning would tell the others first, by a broadcast that comes in the midst of whatever they exchange just then.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: Any) -> None:
        if callable(self.before):
            self.before(number, frame)
        raise SIGTERMException(128 + number)


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _check(settings: Settings) -> None:
    devices, nodes = settings.training.devices, settings.training.nodes
    kind = resolve(settings.accelerator).type
    if kind == "mps" and devices * nodes > 1:
        raise SettingsError("training.devices: there is one MPS device. Set it to 1, or accelerator to cpu.")
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise SettingsError(f"training.devices: {devices}, but this machine has {torch.cuda.device_count()} GPUs.")
    if _by_torchrun() and int(os.environ["WORLD_SIZE"]) != devices * nodes:
        raise SettingsError(
            f"training.devices {devices} on training.nodes {nodes} make {devices * nodes} processes, but torchrun "
            f"started {os.environ['WORLD_SIZE']}. Let both say the same."
        )
    if nodes > 1 and not _by_torchrun():
        raise SettingsError(
            f"training.nodes: {nodes} machines train together where torchrun starts a process for each device of each; "
            "docs/operations.md, Several GPUs, has the command."
        )


@contextmanager
def _on_this_machine(devices: int) -> Iterator[None]:
    """A group of processes that are started here."""
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    # On a CPU they share its processors.
    threads = torch.get_num_threads()
    each = max(1, threads // devices)
    group = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(store.port), "WORLD_SIZE": str(devices), "GROUP_RANK": "0"}
    places = [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]
    workers = [_start(place | {"OMP_NUM_THREADS": str(each)}) for place in places[1:]]
    torch.set_num_threads(each)
    try:
        _await(store, workers)
        with member(places[0], store):
            yield
            for worker in workers:
                worker.wait(SECONDS_TO_END)
    except RuntimeError as error:
        # What was lost is known here as a broken connection.
        _refuse_ended(workers, within=SECONDS_TO_END / 6, cause=error)
        raise
    finally:
        torch.set_num_threads(threads)
        _end(workers)


def _start(variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In a session of its own: what ends all processes of a terminal is this one's to pass on.
    return subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        env=os.environ | variables,
        start_new_session=True,
    )


def _await(store: dist.TCPStore, workers: _Workers) -> None:
    """Until all have started."""
    until = time.monotonic() + SECONDS_TO_START
    while not store.check([f"here/{rank}" for rank in range(1, len(workers) + 1)]):
        _refuse_ended(workers)
        if time.monotonic() > until:
            raise TrainingError(f"the other processes of training.devices did not start within {SECONDS_TO_START} s.")
        time.sleep(0.05)


def _refuse_ended(workers: _Workers, within: float = 0, cause: BaseException | None = None) -> None:
    until = time.monotonic() + within
    while True:
        for rank, worker in enumerate(workers, start=1):
            if worker.poll():
                raise TrainingError(
                    f"process {rank} of {len(workers) + 1} (training.devices) ended before its time, with code "
                    f"{worker.returncode}; what it said stands above. Run it again: training goes on from its last "
                    "finished epoch."
                ) from cause
        if time.monotonic() > until:
            return
        time.sleep(0.05)


def _end(workers: _Workers) -> None:
    for worker in workers:
        assert worker.stdin
        worker.stdin.close()
    for worker in workers:
        try:
            worker.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
