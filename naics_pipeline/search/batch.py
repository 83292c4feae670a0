"""Codes for many files: one output for each, and a manifest by which a later run knows what is finished.

What is here is the same on every engine: which shards there are, how one is coded and recorded, and what a run finds
done. An engine hands shards to `attempt`, in whatever process and order, and passes on what comes back.
"""

import glob
import itertools
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from naics_pipeline.errors import ModelError, NaicsError
from naics_pipeline.files import alone_in, checksum, replacing, visible_files
from naics_pipeline.search.classify import SUFFIXES, Coding, Task, classify_file
from naics_pipeline.search.index import Index, read_manifest, version_of
from naics_pipeline.settings import SearchPrecision
from naics_pipeline.text_model.short import Precision, precision_of

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "naics-batch", 1
LOST = (
    "its worker ended twice in the middle of it, killed from outside or for want of memory. With fewer workers each "
    "has more. Run again: what is done stays."
)
_RECORDS = ".shards"


@dataclass(frozen=True)
class Shard:
    """One file of many.

    Attributes:
        name: of its output, below the directory of outputs; with / on every system.
    """

    name: str
    file: Path


@dataclass(frozen=True)
class Record:
    """What the manifest says of a finished shard: rows, those without a usable text, and SHA-256 of the files."""

    shard: str
    rows: int
    bad_rows: int
    input_sha256: str
    output_sha256: str
    bad_rows_sha256: str


@dataclass(frozen=True)
class Failure:
    """A shard that could not be coded, and why."""

    shard: str
    reason: str


Outcome = Record | Failure
Engine = Callable[["Job", Sequence[Shard]], Generator[Outcome, None, None]]
"""Codes shards by `attempt`, each once, and gives what comes of each in any order."""


@dataclass(frozen=True)
class Job:
    """All that a worker has to know, on whichever machine; its paths have to be there.

    Attributes:
        index, base, accelerator, precision: see `Index.load`.
        index_version: of the index as the run found it.
        out: directory of the outputs.
    """

    index: Path
    index_version: str
    out: Path
    coding: Coding
    accelerator: str = "cpu"
    base: str | None = None
    precision: Precision = "float32"

    @classmethod
    def of(
        cls,
        index: Path,
        out: Path,
        coding: Coding,
        accelerator: str = "cpu",
        base: str | None = None,
        precision: SearchPrecision = "auto",
    ) -> "Job":
        """With the index that lies there now, in one precision on whichever machines.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        chosen = precision_of(precision, accelerator)
        version = version_of(read_manifest(index), chosen)
        return cls(index.resolve(), version, out.resolve(), coding, accelerator, base, chosen)

    def load(self) -> Index:
        """The index.

        Raises:
            ModelError: it cannot be loaded, or is another one by now.
        """
        index = Index.load(self.index, accelerator=self.accelerator, base=self.base, precision=self.precision)
        if index.version != self.index_version:
            raise ModelError(
                f"{self.index}: was index {self.index_version} when the run began, and is {index.version} now. "
                "Run again: all shards are coded with the new one."
            )
        return index

    def task(self, shard: Shard) -> Task:
        return Task(shard.file, self.out / shard.name, self.coding)

    def record_of(self, shard: Shard) -> Path:
        """Where a shard's record lies until the manifest has it."""
        return self.out / _RECORDS / shard.name / MANIFEST

    @property
    def header(self) -> dict[str, Any]:
        """What all records of a manifest have in common."""
        version = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return {**version, "index_version": self.index_version, "settings": asdict(self.coding)}


@dataclass(frozen=True)
class Done:
    """How far a run has come.

    Attributes:
        shards: how many there are.
        records: of those that are done, by an earlier run or this one.
        earlier: how many an earlier run had done.
        failures: those that could not be coded.
    """

    shards: int
    records: list[Record] = field(default_factory=list)
    earlier: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(record.rows for record in self.records)

    @property
    def bad_rows(self) -> int:
        return sum(record.bad_rows for record in self.records)


def one_file(inputs: Sequence[Path]) -> Path | None:
    """The file, there or not, where neither several are named, nor a directory or a pattern."""
    if len(inputs) != 1 or inputs[0].is_dir() or (glob.has_magic(str(inputs[0])) and not inputs[0].is_file()):
        return None
    return inputs[0]


def find_shards(inputs: Sequence[Path], out: Path) -> list[Shard]:
    """The CSV and Parquet files that are named, in directories at any depth, or by patterns such as `day=*/*.csv`.

    An output is named as its input is below the directory, or below the part of the pattern that is fixed; a file by
    its own name. So it keeps its name whatever else is coded. Hidden files, and those below `out`, are none.

    Raises:
        NaicsError: there are none, or two would write the same file.
    """
    out = out.resolve()
    shards: dict[tuple[str, Path], Shard] = {}
    for given in inputs:
        root, files = _files_of(given)
        found = [Shard(file.relative_to(root).as_posix(), file) for file in files if out not in file.parents]
        if not found:
            raise NaicsError(f"{given}: no CSV or Parquet file there. Name files, or directories that hold some.")
        shards |= {(shard.name, shard.file): shard for shard in found}
    ordered = [shards[key] for key in sorted(shards)]
    _refuse_same_outputs([Task(shard.file, out / shard.name, Coding("")) for shard in ordered])
    return ordered


def _files_of(given: Path) -> tuple[Path, list[Path]]:
    """Files, and the directory that they are named from."""
    if given.is_file():
        return given.resolve().parent, [given.resolve()]
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), given.parts))
    root = Path(*fixed).resolve()
    files = list(visible_files(root)) if given.is_dir() else []
    if pattern := given.parts[len(fixed) :]:
        found = sorted(file for file in root.glob(str(Path(*pattern))) if file.is_file())
        files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    return root, [file for file in files if file.suffix.lower() in SUFFIXES]


def _refuse_same_outputs(tasks: Sequence[Task]) -> None:
    writers: dict[Path, Path] = {}
    for task in tasks:
        for path in (task.out, task.bad_rows):
            if (other := writers.setdefault(path, task.file)) != task.file:
                raise NaicsError(
                    f"{other} and {task.file} would both write {path}. Rename one of them, or name a directory that "
                    "holds both."
                )


def attempt(index: Index, job: Job, shard: Shard) -> Outcome:
    """Codes one shard, whatever another process has begun of it or is at, and leaves its record.

    Memory does not grow with the shard. The output is put in place at once, and what a killed process had coded is
    taken over. An input that cannot be coded is a failure of its own, and no reason to stop.
    """
    try:
        with alone_in(job.record_of(shard).parent, "codes this shard"):
            return _finished(job, shard, _read_records(job.record_of(shard), job)) or _code(index, job, shard)
    except NaicsError as error:
        return Failure(shard.name, str(error))


def _code(index: Index, job: Job, shard: Shard) -> Record:
    task = job.task(shard)
    if not shard.file.is_file():
        raise NaicsError(f"{shard.file}: was there when the run began, and is gone.")
    before, read = shard.file.stat(), checksum(shard.file)
    done = classify_file(index, task)
    after = shard.file.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise NaicsError(f"{shard.file}: has changed while it was coded. Run again once it is whole.")
    record = Record(shard.name, done.rows, done.bad, read, checksum(task.out), checksum(task.bad_rows))
    _write_records(job.record_of(shard), job, [record])
    return record


def _finished(job: Job, shard: Shard, records: dict[str, Record]) -> Record | None:
    """The shard's record, if input and outputs are still what it says."""
    record, task = records.get(shard.name), job.task(shard)
    if record is None or not all(file.is_file() for file in (task.file, task.out, task.bad_rows)):
        return None
    said = (record.input_sha256, record.output_sha256, record.bad_rows_sha256)
    return record if said == (checksum(task.file), checksum(task.out), checksum(task.bad_rows)) else None


def run_batch(
    job: Job, shards: Sequence[Shard], engine: Engine, on_progress: Callable[[Done], None] = lambda done: None
) -> Done:
    """Codes what is not done yet, and writes the manifest of all.

    Shards whose input, output, index and settings are still those of their record are left alone. Killed at any
    moment, the next run goes on.

    Raises:
        NaicsError: shards could not be coded, said after all others were; or the directory is used for something else.
    """
    with alone_in(job.out, "codes files into it"):
        known = _read_records(job.out / MANIFEST, job)
        for shard in shards:
            known |= _read_records(job.record_of(shard), job)
        done = _code_waiting(job, shards, known, engine, on_progress)
        # Of inputs that this run was not asked for the outputs are as good.
        there = {name: record for name, record in known.items() if (job.out / name).is_file()}
        records = there | {record.shard: record for record in done.records}
        for failure in done.failures:
            records.pop(failure.shard, None)
        _write_records(job.out / MANIFEST, job, list(records.values()))
        shutil.rmtree(job.out / _RECORDS, ignore_errors=True)
    if done.failures:
        first = done.failures[0]
        raise NaicsError(
            f"{len(done.failures)} of {len(shards)} files could not be coded; the others are done. "
            f"{first.shard}: {first.reason}"
        )
    return done


def _code_waiting(
    job: Job, shards: Sequence[Shard], known: dict[str, Record], engine: Engine, on_progress: Callable[[Done], None]
) -> Done:
    found = {shard: _finished(job, shard, known) for shard in shards}
    done = Done(len(shards), [record for record in found.values() if record])
    done = replace(done, earlier=len(done.records))
    on_progress(done)
    waiting = [shard for shard, record in found.items() if record is None]
    if not waiting:
        return done
    with closing(engine(job, waiting)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Record):
                done.records.append(outcome)
            else:
                done.failures.append(outcome)
            on_progress(done)
    return done


def _write_records(path: Path, job: Job, records: Sequence[Record]) -> None:
    shards = {record.shard: asdict(record) for record in sorted(records, key=lambda record: record.shard)}
    for entry in shards.values():
        del entry["shard"]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**job.header, "shards": shards}, indent=1, ensure_ascii=False))


def _read_records(path: Path, job: Job) -> dict[str, Record]:
    """Shard → record, of this index and these settings.

    Raises:
        NaicsError: the file is of something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        header, shards = {name: content[name] for name in job.header}, content["shards"]
        records = {name: Record(name, **entry) for name, entry in shards.items()}
        if (header["format"], header["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"format {header['format']} {header['format_version']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NaicsError(
            f"{path}: not a manifest that this version writes ({error!r}). Take it away, or name another directory: "
            "all shards are then coded."
        ) from error
    return records if header == job.header else {}
