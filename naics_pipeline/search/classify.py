"""Codes for every row of a file: read, coded and written a few hundred rows at a time, so that memory stays flat.

Finished rows lie in a directory beside the output until all are done: a run that was interrupted goes on from there.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from naics_pipeline.errors import NaicsError
from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.search.answers import THRESHOLD, answer_columns
from naics_pipeline.search.index import Index
from naics_pipeline.text_model.device import give_back_memory

ROWS = 512
SUFFIXES = (".csv", ".parquet")
_FAULT = "__fault__"


@dataclass(frozen=True)
class Coding:
    """How rows are coded.

    Attributes:
        text: the column that holds the texts.
        k: how many codes for each row.
        threshold: the answer is the deepest code that is at least so probable.
    """

    text: str
    k: int = 5
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 < self.threshold <= 1:
            raise NaicsError(f"{self.k} codes with a threshold of {self.threshold}: at least one, and a probability.")

    @property
    def new_columns(self) -> list[str]:
        """What is added to the input's columns."""
        ranks = range(1, self.k + 1)
        names = [*(f"code_{rank}" for rank in ranks), *(f"probability_{rank}" for rank in ranks)]
        return [*names, "answer", "answer_level", "index_version"]

    def check(self, frame: pl.DataFrame, name: Path | str) -> pl.DataFrame:
        """The rows, if they can be coded.

        Raises:
            NaicsError: they lack the text column, or have a column of a new name already.
        """
        if self.text not in frame.columns:
            known = ", ".join(column for column in frame.columns if column != _FAULT)
            raise NaicsError(f"{name}: has no column '{self.text}'. It has {known}: name one with --text.")
        taken = [column for column in self.new_columns if column in frame.columns]
        if taken:
            raise NaicsError(f"{name}: has a column '{taken[0]}' already, which is to be added. Rename it.")
        return frame


@dataclass(frozen=True)
class Task:
    """What is to be coded, and how.

    Attributes:
        file, out: CSV or Parquet each, by their suffix.
    """

    file: Path
    out: Path
    coding: Coding

    def __post_init__(self) -> None:
        for path in (self.file, self.out):
            if path.suffix.lower() not in SUFFIXES:
                raise NaicsError(f"{path}: neither CSV nor Parquet by its name; end it in .csv or .parquet.")
        if self.file.resolve() == self.out.resolve():
            raise NaicsError(f"{self.out}: would replace its own input; name another file.")

    @property
    def bad_rows(self) -> Path:
        """Where rows without a usable text are listed: row, reason."""
        return self.out.with_name(f"{self.out.stem}.bad_rows.csv")


@dataclass(frozen=True)
class Coded:
    """How far a run has come: rows that are done, bad ones among them, and rows that an earlier run had done."""

    rows: int
    bad: int
    resumed: int


def classify_file(index: Index, task: Task, on_progress: Callable[[Coded], None] = lambda done: None) -> Coded:
    """Writes the output with all input columns and the `new_columns`; every row of the input, in its order.

    A row whose text is empty, or whose fields do not fit the header, has no codes, and is listed in `bad_rows`.

    Raises:
        NaicsError: the input cannot be read, lacks the text column, or has a column of a new name already.
    """
    parts = task.out.with_name(f".{task.out.name}.parts")
    _start(parts, index, task)
    done = Coded(0, 0, 0)
    for number, frame in enumerate(_blocks(task)):
        path = parts / f"{number:06d}.parquet"
        if path.is_file():
            bad = pq.read_metadata(path).metadata.get(b"bad", b"0")
            done = Coded(done.rows + frame.height, done.bad + int(bad), done.resumed + frame.height)
        else:
            coded, faults = _coded(index, task.coding, frame)
            table = coded.hstack(pl.DataFrame({_FAULT: faults}, schema={_FAULT: pl.String})).to_arrow()
            count = sum(fault is not None for fault in faults)
            with replacing(path) as temporary:
                pq.write_table(table.replace_schema_metadata({"bad": str(count)}), temporary)
            done = Coded(done.rows + frame.height, done.bad + count, done.resumed)
        # Each block leaves arrays of other sizes behind, and in the holes none of the next ones' fits.
        give_back_memory()
        on_progress(done)
    _finish(parts, task)
    return done


def _start(parts: Path, index: Index, task: Task) -> None:
    """An empty directory for parts, or the one of an interrupted run of the same task."""
    if not task.file.is_file():
        raise NaicsError(f"{task.file}: no such file.")
    status = task.file.stat()
    task_key = fingerprint({**asdict(task), "index": index.version, "size": status.st_size, "at": status.st_mtime_ns})
    state = parts / "task.json"
    if state.is_file() and json.loads(state.read_text())["key"] == task_key:
        return
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    with replacing(state) as temporary:
        temporary.write_text(json.dumps({"key": task_key}))


def _blocks(task: Task) -> Iterator[pl.DataFrame]:
    """The input's rows with the column `_FAULT`: why a row cannot be used, or null."""
    read = _csv_blocks if task.file.suffix.lower() == ".csv" else _parquet_blocks
    for frame in read(task.file):
        yield task.coding.check(frame, task.file)


def csv_frames(lines: Iterable[str], name: Path | str, coding: Coding) -> Iterator[pl.DataFrame]:
    """The rows of a CSV text in blocks, each with the column that says why a row cannot be used, or null.

    Raises:
        NaicsError: there is no header, or its rows cannot be coded.
    """
    for frame in _frames(lines, name):
        yield coding.check(frame, name)


def coded_csv(index: Index, coding: Coding, frame: pl.DataFrame) -> tuple[str, str]:
    """The header and the rows of such a block with their codes, as CSV."""
    coded, _ = _coded(index, coding, frame)
    return coded.clear().write_csv(), coded.write_csv(include_header=False)


def _csv_blocks(path: Path) -> Iterator[pl.DataFrame]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        yield from _frames(file, path)


def _frames(lines: Iterable[str], name: Path | str) -> Iterator[pl.DataFrame]:
    # A field may be as long as a text is.
    csv.field_size_limit(1 << 30)
    reader = csv.reader(line.replace("\0", "") for line in lines)
    header = next(reader, None)
    if not header or len(set(header)) != len(header):
        raise NaicsError(f"{name}: its first line has to name each column once.")
    rows: list[list[str | None]] = []
    for fields in reader:
        fault = None
        if len(fields) != len(header):
            fault = f"{len(fields)} fields instead of {len(header)}"
        last = len(header) - 1
        fitted = [*fields[:last], ",".join(fields[last:])] if len(fields) > len(header) else fields
        rows.append([*fitted, *[None] * (len(header) - len(fitted)), fault])
        if len(rows) == ROWS:
            yield _strings(header, rows)
            rows = []
    # The last rows; of a file without any, its columns.
    yield _strings(header, rows)


def _strings(header: list[str], rows: list[list[str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys([*header, _FAULT], pl.String), orient="row")


def _parquet_blocks(path: Path) -> Iterator[pl.DataFrame]:
    try:
        file = pq.ParquetFile(path)
        # Of a file without rows, its columns.
        nothing = () if file.metadata.num_rows else (file.schema_arrow.empty_table(),)
        for batch in chain(nothing, file.iter_batches(batch_size=ROWS)):
            yield pl.DataFrame(pl.from_arrow(batch)).with_columns(pl.lit(None, dtype=pl.String).alias(_FAULT))
    except (pa.ArrowInvalid, OSError) as error:
        raise NaicsError(f"{path}: not a readable Parquet file ({error}).") from error


def _coded(index: Index, coding: Coding, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str | None]]:
    texts = frame[coding.text].cast(pl.String, strict=False).fill_null("").to_list()
    faults: list[str | None] = frame[_FAULT].to_list()
    faults = [fault or (None if text.strip() else "no text") for fault, text in zip(faults, texts, strict=True)]
    usable = np.array([fault is None for fault in faults])
    k = min(coding.k, len(index.candidates))
    codes = np.full((len(texts), coding.k), None, dtype=object)
    values = np.full((len(texts), coding.k), np.nan)
    answer, digits = np.full(len(texts), "", dtype=object), np.zeros(len(texts), dtype=np.int8)
    if usable.any():
        chances = index.predict_proba([text for text, good in zip(texts, usable, strict=True) if good])
        order = np.argsort(-chances, axis=1, kind="stable")[:, :k]
        codes[usable, :k] = index.candidates[order].astype(object)
        values[usable, :k] = np.take_along_axis(chances, order, axis=1)
        answer[usable], digits[usable] = answer_columns(index, chances, coding.threshold)
    added = {f"code_{rank + 1}": pl.Series(codes[:, rank].tolist(), dtype=pl.String) for rank in range(coding.k)}
    added |= {f"probability_{rank + 1}": pl.Series(values[:, rank]).fill_nan(None) for rank in range(coding.k)}
    added |= {
        "answer": pl.Series([code or None for code in answer], dtype=pl.String),
        "answer_level": pl.Series(digits),
        "index_version": pl.Series([index.version] * len(texts), dtype=pl.String),
    }
    return frame.drop(_FAULT).with_columns(**added), faults


def _finish(parts: Path, task: Task) -> None:
    """One file of all parts, part by part, and the list of bad rows; then the parts are gone."""
    files = sorted(parts.glob("*.parquet"))
    row = 0
    with (
        replacing(task.out) as temporary,
        replacing(task.bad_rows) as listed,
        listed.open("w", encoding="utf-8", newline="") as bad,
    ):
        lines = csv.writer(bad)
        lines.writerow(["row", "reason"])
        writer = _Writer(temporary, task.out.suffix.lower())
        for path in files:
            frame = pl.read_parquet(path)
            lines.writerows((row + place, fault) for place, fault in enumerate(frame[_FAULT], 1) if fault is not None)
            row += frame.height
            writer.add(frame.drop(_FAULT))
        writer.close()
    shutil.rmtree(parts)


class _Writer:
    """A CSV or Parquet file, frame by frame."""

    def __init__(self, path: Path, suffix: str) -> None:
        self._path, self._parquet = path, suffix == ".parquet"
        self._table: pq.ParquetWriter | None = None
        self._path.touch()

    def add(self, frame: pl.DataFrame) -> None:
        if self._parquet:
            table = frame.to_arrow()
            self._table = self._table or pq.ParquetWriter(self._path, table.schema, compression="zstd")
            self._table.write_table(table)
            return
        with self._path.open("ab") as file:
            frame.write_csv(file, include_header=file.tell() == 0)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
