"""Time, peak memory and size of a piece of work, each in a process of its own."""

import importlib
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

Work = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        what: the work in words.
        ours, naive: names of functions of the same module that take a directory and give the work to be measured, so
            that what is loaded first is not timed. Files in the directory are the size on disk; the one above it is
            shared by all rows of a table. They give (work, share) where the work is only a share of the whole; time and
            size are then scaled up.
    """

    what: str
    ours: str
    naive: str | None = None


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of all processors together; the latter compare better on a busy machine."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    disk_mb: float
    share: float

    def cells(self) -> list[str]:
        about = "" if self.share == 1 else "~ "
        disk = f"{about}{self.disk_mb / self.share:.3g}" if self.disk_mb else "–"
        memory = f"{self.peak_mb:.0f}" + ("" if self.share == 1 else f" (for {self.share:.1%})")
        seconds, cpu_seconds = self.seconds / self.share, self.cpu_seconds / self.share
        return [f"{about}{seconds:.3g} ({cpu_seconds:.3g})", memory, disk]


def table(module: str, rows: list[Row]) -> Iterator[str]:
    """Measures all rows; the lines of a Markdown table, each as soon as it is known."""
    columns = ["s (CPU s)", "peak MB", "disk MB"]
    head = ["what", *columns, *(f"naive: {name}" for name in columns), "times less CPU", "times smaller"]
    yield f"### {module} ({platform.processor() or platform.machine()}, Python {platform.python_version()})\n"
    yield "| " + " | ".join(head) + " |"
    yield "| --- " * len(head) + "|"
    measured: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as shared:
        for row in rows:
            for name in filter(None, (row.ours, row.naive)):
                measured[name] = measured.get(name) or measure(module, name, shared)
            yield line(row.what, measured[row.ours], measured[row.naive] if row.naive else None)


def line(what: str, ours: Cost, naive: Cost | None) -> str:
    """A row of the table."""
    cells = [what, *ours.cells(), *(naive.cells() if naive else ["–"] * 3)]
    faster = f"{naive.cpu_seconds / naive.share / ours.cpu_seconds:.3g}" if naive else "–"
    smaller = f"{naive.disk_mb / naive.share / ours.disk_mb:.3g}" if naive and ours.disk_mb else "–"
    return "| " + " | ".join([*cells, faster, smaller]) + " |"


def measure(module: str, function: str, shared: str | None = None) -> Cost:
    """The cost of one function's work in a fresh process, imports and loading not timed but in the memory.

    Args:
        shared: the directory above the function's own; None: that of all temporary files.
    """
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        command = [sys.executable, "-m", "benchmarks.measure", module, function, directory]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Cost(**json.loads(output.splitlines()[-1]))


def _run(module: str, function: str, directory: Path) -> None:
    prepared = getattr(importlib.import_module(f"benchmarks.{module}"), function)(directory)
    work, share = prepared if isinstance(prepared, tuple) else (prepared, 1.0)
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    disk_mb = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6
    print(json.dumps(asdict(Cost(seconds, cpu_seconds, _peak_mb(), disk_mb, share))))


def _peak_mb() -> float:
    """Highest resident memory of this process, which getrusage would mix with that of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise RuntimeError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")
    return int(found[1]) / 1e3


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
