"""Many files are coded one by one, on whichever engine, and what is finished is not coded again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import polars as pl
import pytest

from naics_pipeline.errors import ModelError, NaicsError
from naics_pipeline.search import processes
from naics_pipeline.search.batch import MANIFEST, Done, Failure, Job, Outcome, Shard, find_shards, run_batch
from naics_pipeline.search.classify import ROWS, Coding
from naics_pipeline.search.index import read_manifest
from naics_pipeline.search.processes import in_processes, in_this_process

TEXTS = {
    "a.csv": ["growing soybeans", "", "pizza, delivery"],
    "b.parquet": ["kennels", "family restaurants", None],
    "day=1/a.csv": ["growing corn"],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, texts in TEXTS.items():
        write(tmp_path / "in" / name, texts)
    return tmp_path / "in"


@pytest.fixture
def job(index_path: Path, tmp_path: Path) -> Job:
    return Job.of(index_path, tmp_path / "out", Coding("what", 2))


def write(file: Path, texts: Sequence[str | None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"what": texts, "id": range(len(texts))}, schema_overrides={"what": pl.String})
    frame.write_parquet(file) if file.suffix == ".parquet" else frame.write_csv(file)


def read(file: Path) -> pl.DataFrame:
    return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)


def contents(directory: Path) -> dict[str, bytes]:
    """Of all files, hidden ones as well."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


class Counted:
    """The engine of one process, and the shards that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, job: Job, shards: Sequence[Shard]) -> Generator[Outcome, None, None]:
        self.asked = [shard.name for shard in shards]
        return in_this_process(job, shards)


def asked(job: Job, source: Path) -> list[str]:
    """The shards that a run codes."""
    engine = Counted()
    run_batch(job, find_shards([source], job.out), engine)
    return engine.asked


def test_each_file_has_an_output_and_an_entry(job: Job, source: Path) -> None:
    done = run_batch(job, find_shards([source], job.out), in_this_process)
    assert (done.shards, done.rows, done.bad_rows, done.earlier) == (3, 7, 2, 0)
    lists = {name.rpartition(".")[0] + ".bad_rows.csv" for name in TEXTS}
    assert contents(job.out).keys() == {*TEXTS, *lists, MANIFEST}
    for name, texts in TEXTS.items():
        found = read(job.out / name)
        assert [int(number) for number in found["id"]] == list(range(len(texts)))
        assert [code is None for code in found["code_1"]] == [not text for text in texts]
    assert (job.out / "b.bad_rows.csv").read_text() == "row,reason\n3,no text\n"
    manifest = json.loads((job.out / MANIFEST).read_text())
    assert manifest["index_version"] == job.index_version
    assert manifest["settings"] == {"text": "what", "k": 2, "threshold": 0.5}
    assert list(manifest["shards"]) == sorted(TEXTS)
    assert (manifest["shards"]["a.csv"]["rows"], manifest["shards"]["a.csv"]["bad_rows"]) == (3, 1)


def test_only_what_has_changed_is_coded_again(job: Job, source: Path) -> None:
    assert asked(job, source) == sorted(TEXTS)
    first = contents(job.out)
    assert asked(job, source) == []
    assert contents(job.out) == first
    write(source / "a.csv", ["grooming of dogs"])
    write(source / "new.csv", ["growing corn"])
    assert asked(job, source) == ["a.csv", "new.csv"]
    assert read(job.out / "a.csv")["what"].to_list() == ["grooming of dogs"]
    (job.out / "b.parquet").write_bytes(b"cut short")
    (job.out / "new.bad_rows.csv").unlink()
    assert asked(job, source) == ["b.parquet", "new.csv"]
    assert contents(job.out)["b.parquet"] == first["b.parquet"]


def test_another_index_or_setting_codes_all_again(job: Job, source: Path, index_path: Path, tmp_path: Path) -> None:
    asked(job, source)
    assert asked(Job.of(index_path, job.out, Coding("what", 1)), source) == sorted(TEXTS)
    other = shutil.copytree(index_path, tmp_path / "other")
    manifest = read_manifest(other) | {"index_version": "of another day"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    renewed = Job.of(other, job.out, Coding("what", 1), precision="float32")
    assert asked(renewed, source) == sorted(TEXTS)
    assert set(read(job.out / "a.csv")["index_version"]) == {"of another day"}
    shutil.rmtree(other)
    shutil.copytree(index_path, other)
    with pytest.raises(ModelError, match="was index of another day when the run began"):
        renewed.load()


def test_an_interrupted_run_keeps_what_is_done(job: Job, source: Path) -> None:
    def stop(done: Done) -> None:
        if len(done.records) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(job, find_shards([source], job.out), in_this_process, stop)
    assert not (job.out / MANIFEST).exists()
    assert asked(job, source) == ["day=1/a.csv"]
    assert json.loads((job.out / MANIFEST).read_text())["shards"].keys() == TEXTS.keys()


def test_a_file_that_cannot_be_coded_stops_no_other(job: Job, source: Path) -> None:
    (source / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(NaicsError, match=r"1 of 3 files could not be coded.*b\.parquet: .*not a readable Parquet"):
        asked(job, source)
    assert json.loads((job.out / MANIFEST).read_text())["shards"].keys() == {"a.csv", "day=1/a.csv"}
    write(source / "b.parquet", ["kennels"])
    assert asked(job, source) == ["b.parquet"]


def test_an_input_that_changes_meanwhile_is_a_failure(job: Job, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from naics_pipeline.search import batch

    real = batch.classify_file
    monkeypatch.setattr(batch, "classify_file", lambda *given: (real(*given), write(given[1].file, ["x"]))[0])
    with pytest.raises(NaicsError, match="has changed while it was coded"):
        run_batch(job, find_shards([source / "a.csv"], job.out), in_this_process)


def test_outputs_are_named_as_inputs_are_found(source: Path, tmp_path: Path) -> None:
    (source / ".hidden.csv").touch()
    (source / "notes.txt").touch()
    out = source / "coded"
    write(out / "a.csv", ["coded earlier"])

    def names(*inputs: Path) -> list[str]:
        return [shard.name for shard in find_shards(inputs, out)]

    assert names(source) == sorted(TEXTS)
    assert names(source / "*.csv", source / "b.parquet") == ["a.csv", "b.parquet"]
    assert names(source / "day=*" / "*.csv") == ["day=1/a.csv"]
    assert names(source / "a.csv", source / "a.csv") == ["a.csv"]
    with pytest.raises(NaicsError, match="would both write"):
        names(source / "a.csv", source / "day=1")
    write(source / "b.csv", ["x"])
    with pytest.raises(NaicsError, match=r"would both write .*b\.bad_rows\.csv"):
        names(source)
    for nothing in (source / "*.xlsx", source / "none", tmp_path / "none.csv"):
        with pytest.raises(NaicsError, match="no CSV or Parquet file there"):
            names(nothing)


def test_a_directory_of_something_else_is_left_alone(job: Job, source: Path) -> None:
    job.out.mkdir()
    (job.out / MANIFEST).write_text('{"name": "an app"}')
    with pytest.raises(NaicsError, match="not a manifest that this version writes"):
        asked(job, source)
    assert (job.out / MANIFEST).read_text() == '{"name": "an app"}'


def long_and_short(directory: Path) -> list[Path]:
    """A file of several blocks, and short ones."""
    write(directory / "long.csv", [f"growing corn {number}" for number in range(4 * ROWS)])
    for name in ("x.csv", "y.csv"):
        write(directory / name, ["kennels", ""])
    return [directory]


def kill_once_begun(job: Job, pids: Callable[[], list[int]]) -> threading.Thread:
    """Kills the processes as soon as the first block of the long file is coded."""

    def kill() -> None:
        parts = job.out / ".long.csv.parts"
        while not any(parts.glob("*.parquet")):
            time.sleep(0.005)
        for pid in pids():
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_of_killed_processes_nothing_is_lost_or_doubled(job: Job, index_path: Path, tmp_path: Path) -> None:
    inputs = long_and_short(tmp_path / "in")
    alone = Job.of(index_path, tmp_path / "alone", job.coding)
    run_batch(alone, find_shards(inputs, alone.out), in_this_process)
    killer = kill_once_begun(job, lambda: [child.pid for child in active_children() if child.pid])
    done = run_batch(job, find_shards(inputs, job.out), partial(in_processes, workers=2))
    assert not killer.is_alive()
    assert (done.rows, done.bad_rows) == (4 * ROWS + 4, 2)
    assert contents(job.out) == contents(alone.out)
    assert active_children() == []


def test_a_shard_that_ends_its_processes_is_a_failure(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ATTEMPTS", 1)
    shards = find_shards(long_and_short(tmp_path / "in"), job.out)
    kill_once_begun(job, lambda: [child.pid for child in active_children() if child.pid])
    found = list(in_processes(job, shards, workers=1))
    assert [outcome.shard for outcome in found] == ["long.csv", "x.csv", "y.csv"]
    assert [isinstance(outcome, Failure) for outcome in found] == [True, False, False]
    assert "killed from outside or for want of memory" in found[0].reason


def test_an_index_that_processes_cannot_load_is_said(job: Job, source: Path, tmp_path: Path) -> None:
    lost = Job(tmp_path / "none", "1", job.out, job.coding)
    with pytest.raises(ModelError, match="no index there"):
        run_batch(lost, find_shards([source], job.out), partial(in_processes, workers=2))


def workers_of_ray() -> list[int]:
    """Actors that descend from this process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parent = {int(pid): int(above) for pid, above, _ in rows}
    found = [int(pid) for pid, _, command in rows if command.startswith("ray::MapWorker")]

    def is_ours(pid: int) -> bool:
        while pid in parent and pid != os.getpid():
            pid = parent[pid]
        return pid == os.getpid()

    return [pid for pid in found if is_ours(pid)]


@pytest.mark.slow
def test_ray_gives_the_same_with_a_killed_worker(
    job: Job, index_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="pip install 'naics-pipeline[ray]', to code files on a cluster")
    from naics_pipeline.search.on_ray import on_ray

    # On a busy machine it takes minutes to start, and its workers stand behind all other processes.
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    inputs = long_and_short(tmp_path / "in")
    alone = Job.of(index_path, tmp_path / "alone", job.coding)
    run_batch(alone, find_shards(inputs, alone.out), in_this_process)
    killer = kill_once_begun(job, workers_of_ray)
    done = run_batch(job, find_shards(inputs, job.out), partial(on_ray, workers=2))
    assert not killer.is_alive()
    assert (done.rows, done.bad_rows) == (4 * ROWS + 4, 2)
    assert contents(job.out) == contents(alone.out)


def test_without_ray_its_engine_says_how_to_get_it(job: Job, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from naics_pipeline.search.on_ray import on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NaicsError, match=r"Install naics-pipeline\[ray\]"):
        run_batch(job, find_shards([source], job.out), partial(on_ray, workers=2))
