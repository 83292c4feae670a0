"""The whole pipeline once, tiny, in a process of its own: what the campaign ends, starves and confuses.

The processes are forked from one that has loaded the libraries, so that what a fault meets is work and not imports.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from naics_pipeline.failures import explanation
from naics_pipeline_tests import runs

TINY = {
    "training.epochs_scale": 0.5,
    "training.queries_per_batch": 2,
    "graph.steps": 20,
    "graph.left_out_fraction": 0,
    "taxonomy.held_out_fraction": 0,
    "taxonomy.validation_fraction": 0,
    "evaluation.baselines": False,
}
LOADED = multiprocessing.get_context("forkserver")
# With all that assets import when they run.
LOADED.set_forkserver_preload(
    [
        "mlflow.store.tracking.sqlalchemy_store",
        "peft",
        "naics_pipeline.text_model.training.loop",
        "naics_pipeline.graph_model.refine",
        "naics_pipeline.evaluation.summary",
        __name__,
    ]
)


@dataclass(frozen=True)
class Limits:
    """What a run has to live with.

    Attributes:
        largest_file: bytes.
        memory: bytes beyond what the libraries take.
        clock_jump: seconds, and when it comes, in seconds from the start.
    """

    largest_file: int | None = None
    memory: int | None = None
    clock_jump: tuple[float, float] | None = None

    def set(self) -> None:
        if self.largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, self.largest_file))
        if self.memory is not None:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + self.memory, taken + self.memory))
        if self.clock_jump is not None:
            real, begun = time.time, time.monotonic()
            jump, after = self.clock_jump
            time.time = lambda: real() + (jump if time.monotonic() - begun > after else 0)


def load() -> None:
    """Loads the libraries, so that no run is counted as longer for it."""
    process = LOADED.Process(target=int)
    process.start()
    process.join()


class Once:
    """A process that makes everything in `data`."""

    def __init__(self, source: Path, data: Path, base: Path, limits: Limits) -> None:
        self._said, saying = LOADED.Pipe(duplex=False)
        self.process = LOADED.Process(target=_run, args=(source, data, base, limits, saying))
        self.process.start()
        saying.close()

    def end(self, seconds: float = 600) -> str | None:
        """Waits for its end; returns why not everything was made, None where it was."""
        try:
            if not self._said.poll(seconds):
                self.process.kill()
                return f"no end after {seconds} seconds"
            return self._said.recv()
        except EOFError:
            return "it was killed"
        finally:
            self.process.join()


def _run(source: Path, data: Path, base: Path, limits: Limits, saying: Connection) -> None:
    # What Dagster logs is in its events, too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    limits.set()
    try:
        result = runs.materialize("*", data, source=str(source), model__base=str(base), **TINY)
        failed = next((event for event in result.all_events if event.is_step_failure), None)
        saying.send(failed and f"{failed.step_key} failed: {explanation(failed.event_specific_data)}")
    except BaseException as error:
        saying.send(repr(error))
