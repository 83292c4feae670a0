"""The fault campaign: after every fault a rerun ends well, makes what an undisturbed run makes, and nothing lies about.

make faults              # NAICS_FAULTS=0.1 tries each fault a tenth as often; without a number each is tried once
"""

import json
import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.numpy import load_file

from naics_pipeline_tests.faults.once import Limits, Once, load
from naics_pipeline_tests.taxonomy.workbooks import small_source

pytestmark = pytest.mark.slow
SHARE = float(os.environ.get("NAICS_FAULTS", "0"))
CHANCE = random.Random(int(os.environ.get("NAICS_FAULTS_SEED", "0")))
OF_ITS_TIME = ("seconds", "run_id", "created", "mlflow_run_id", "mlflow_parent_run_id")


def times(number: int) -> int:
    return max(1, math.ceil(number * SHARE))


@dataclass
class Pipeline:
    """A tiny pipeline, what an undisturbed run of it makes, and how long that takes."""

    directory: Path
    base: Path
    undisturbed: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def start(self, data: Path, **limits: Any) -> Once:
        return Once(self.directory / "source", data, self.base, Limits(**limits))

    def run(self, data: Path, **limits: Any) -> str | None:
        """Why not everything was made; None where it was."""
        return self.start(data, **limits).end()

    def heals(self, data: Path) -> None:
        """A rerun ends well and the outputs are those of the undisturbed run."""
        assert self.run(data) is None
        found = contents(data)
        assert found.keys() ^ self.undisturbed.keys() == set()
        assert [name for name in found if found[name] != self.undisturbed[name]] == []
        assert leftovers(data) == []


def contents(data: Path) -> dict[str, Any]:
    """Output → what it holds, without times and run ids; of pages only that there is one."""
    found: dict[str, Any] = {}
    for path in sorted(file for file in data.rglob("*") if file.is_file() and "mlflow" not in file.parts):
        name = path.relative_to(data).as_posix()
        # Each run adds a page and its scores under its own id.
        if name.startswith("scores/") or (path.suffix == ".html" and path.name != "index.html"):
            continue
        if path.suffix == ".parquet":
            found[name] = pl.read_parquet(path).hash_rows().to_list()
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            found[name] = {key: value.tobytes() for key, value in load_file(path).items()}
        else:
            found[name] = None
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in OF_ITS_TIME}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def leftovers(data: Path) -> list[str]:
    return [path.name for path in data.rglob(".*")]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, tiny_base) -> Pipeline:
    made = Pipeline(tmp_path_factory.mktemp("faults"), tiny_base)
    small_source().write(made.directory / "source")
    load()
    begun = time.monotonic()
    assert made.run(made.directory / "undisturbed") is None
    made.seconds = time.monotonic() - begun
    made.undisturbed = contents(made.directory / "undisturbed")
    assert len(made.undisturbed) > 20
    return made


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, int, int]]]:
    rows: list[tuple[str, int, int]] = []
    yield rows
    print("\n")
    for fault, tried, survived in (("fault", "tried", "survived"), *rows):
        print(f"{fault:<34} {tried:>6} {survived:>9}")


def killed(pipeline: Pipeline, data: Path) -> None:
    run = pipeline.start(data)
    time.sleep(CHANCE.uniform(0, pipeline.seconds))
    run.process.kill()
    run.end()


def disk_full(pipeline: Pipeline, data: Path) -> None:
    said = pipeline.run(data, largest_file=int(10 ** CHANCE.uniform(2, 5.5)))
    assert said is None or re.search("could not be written|disk|File too large", said), said


def little_memory(pipeline: Pipeline, data: Path) -> None:
    pipeline.run(data, memory=int(10 ** CHANCE.uniform(6, 9.5)))


def two_at_once(pipeline: Pipeline, data: Path) -> None:
    for run in [pipeline.start(data), pipeline.start(data)]:
        run.end(900)


def clock_jumps(pipeline: Pipeline, data: Path) -> None:
    seconds = CHANCE.choice([-1, 1]) * 10 ** CHANCE.randint(2, 8)
    assert pipeline.run(data, clock_jump=(seconds, CHANCE.uniform(0, pipeline.seconds))) is None


FAULTS: list[tuple[str, int, Callable[[Pipeline, Path], None]]] = [
    ("kill -9 at a random moment", 30, killed),
    ("disk full at a random offset", 10, disk_full),
    ("memory limit", 5, little_memory),
    ("two runs at once", 3, two_at_once),
    ("clock jumps", 5, clock_jumps),
]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("fault", "tries", "happen"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_a_rerun_heals(fault, tries, happen, pipeline, table, tmp_path):
    survived = 0
    problems = []
    for number in range(times(tries)):
        data = tmp_path / str(number)
        try:
            happen(pipeline, data)
            pipeline.heals(data)
            survived += 1
        except AssertionError as error:
            problems.append(f"{number}: {error}")
        shutil.rmtree(data, ignore_errors=True)
    table.append((fault, times(tries), survived))
    assert problems == []


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped"])
def test_a_rerun_heals_damaged_outputs(damage, pipeline, table, tmp_path):
    """Of every file that a run leaves, its caches among them; a rerun meets them all."""
    survived = 0
    problems = []
    for number in range(times(5)):
        data = tmp_path / str(number)
        shutil.copytree(pipeline.directory / "undisturbed", data)
        for path in [data / name for name in pipeline.undisturbed]:
            content = path.read_bytes()
            place = CHANCE.randrange(len(content)) if content else 0
            flipped = content[:place] + bytes([content[place] ^ 1 << CHANCE.randrange(8)]) + content[place + 1 :]
            path.write_bytes(content[:place] if damage == "truncated" else flipped)
        try:
            pipeline.heals(data)
            survived += 1
        except AssertionError as error:
            problems.append(f"{number}: {error}")
    table.append((f"outputs {damage}", times(5), survived))
    assert problems == []
