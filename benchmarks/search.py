"""How fast texts are coded: `python -m benchmarks search [--rows N …] [--seconds S]`.

Asks the index of the settings' data directory with the unseen entries that lie beside it. The load comes from `wrk`
(a package of that name), with another text in every request; without it that line says so.

`NAICS__SEARCH__PRECISION=bfloat16` before it measures that precision, and how far its answers are from float32's.
"""

import argparse
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measure import Work, measure
from naics_pipeline import config
from naics_pipeline.search.classify import Coding, Task, classify_file
from naics_pipeline.search.index import Index
from naics_pipeline.storage import Store
from naics_pipeline.taxonomy.text import HELD_OUT
from naics_pipeline.text_model.short import Precision

NAICS = str(Path(sys.executable).with_name("naics"))
SEARCHES, BATCH, CLIENTS = 300, 4096, 50
ROWS_OF_FILES = (10_000, 100_000, 1_000_000)
LUA = """
local texts = {%s}
local at = 0
function setup(thread) thread:set("first", math.random(1, #texts)) end
function request()
  at = at + 1
  return wrk.format("POST", "/api/search", {["Content-Type"] = "application/json"}, texts[(first + at) %% #texts + 1])
end
"""


def _store() -> Store:
    return Store(config.load().settings.data_dir)


def _index(precision: Precision | None = None) -> Index:
    chosen = precision or config.load().settings.search.precision
    return Index.load(_store().local("naics_index"), accelerator="cpu", precision=chosen)


def _texts() -> list[str]:
    entries = pl.read_parquet(_store().local("index_entries.parquet")).filter(pl.col("split") == HELD_OUT)
    return entries["entry"].sample(fraction=1, shuffle=True, seed=0).to_list()


def _file_of(rows: int, directory: Path) -> Work:
    """Every row is another text, and one in a thousand has none."""
    texts = _texts()
    numbered = (f"{texts[row % len(texts)]} {row // len(texts) or ''}".strip() for row in range(rows))
    with (directory / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows(["" if row % 1000 == 999 else text] for row, text in enumerate(numbered))
    index = _index()
    return lambda: print(classify_file(index, Task(directory / "in.csv", directory / "out.csv", Coding("text", 3))))


def __getattr__(name: str) -> Callable[[Path], Work]:
    if name.startswith("file_of_"):
        return partial(_file_of, int(name.removeprefix("file_of_")))
    raise AttributeError(name)


def cold_start() -> str:
    """A whole process: the best of three, for the first also reads from disk."""
    seconds = []
    for text in _texts()[:3]:
        start = time.perf_counter()
        command = [NAICS, "search", text]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return f"{min(seconds):.2f} s (first {seconds[0]:.2f} s)"


def warm(index: Index, texts: list[str]) -> str:
    """Texts one by one."""
    index.search(texts[0])
    milliseconds = []
    for text in texts[1 : SEARCHES + 1]:
        start = time.perf_counter()
        index.search(text)
        milliseconds.append(1000 * (time.perf_counter() - start))
    return "median {:.1f} ms, p99 {:.1f} ms".format(*np.percentile(milliseconds, [50, 99]))


def batch(index: Index, texts: list[str]) -> str:
    """Probabilities of many texts at once."""
    asked = (texts * (BATCH // len(texts) + 1))[:BATCH]
    start = time.perf_counter()
    index.predict_proba(asked)
    return f"{BATCH / (time.perf_counter() - start):.0f} texts/s"


def against_float32(index: Index, texts: list[str]) -> str:
    """How far the answers are from the reference's."""
    found, right = index.predict_proba(texts), _index("float32").predict_proba(texts)
    moved = found.argmax(axis=1) != right.argmax(axis=1)
    return f"probabilities differ by at most {np.abs(found - right).max():.4f}, {moved.mean():.3%} of first answers"


@contextmanager
def server() -> Iterator[str]:
    """`naics serve` in a process of its own, with a rate that does not stop the load."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [NAICS, "serve", "--port", str(port), "--rate", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/api/about", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def load(texts: list[str], seconds: int) -> str:
    """Clients that each ask again as soon as they are answered."""
    if not shutil.which("wrk"):
        return "not measured: wrk is not installed"
    bodies = [json.dumps(json.dumps({"texts": [text], "k": 5})) for text in texts]
    with server() as url, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % ",".join(bodies))
        script.flush()
        options = ["-t2", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", script.name]
        said = subprocess.run(["wrk", *options, url], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {name: re.search(rf"{name}\s+(\S+)", said) for name in ("50%", "99%", "Requests/sec:")}
    errors = re.findall(r"(?:Non-2xx.*|Socket errors.*)", said)
    shown = {name: match[1] if match else "?" for name, match in found.items()}
    return (
        f"{shown['Requests/sec:']} answers/s, median {shown['50%']}, p99 {shown['99%']}, "
        f"{'; '.join(errors) or 'no error'}"
    )


def main(arguments: list[str]) -> None:
    """Prints a table of all, and one of files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS_OF_FILES, help="of the files that are coded")
    parser.add_argument("--seconds", type=int, default=60, help="of load")
    given = parser.parse_args(arguments)
    texts, index = _texts(), _index()
    print("### search\n\n| what | |\n| --- | --- |", flush=True)
    measures: dict[str, Callable[[], str]] = {
        "cold start, `naics search` whole": cold_start,
        f"one search, warm, {SEARCHES} texts": partial(warm, index, texts),
        f"{BATCH:,} short texts in one batch": partial(batch, index, texts),
        f"{CLIENTS} clients for {given.seconds} s": partial(load, texts, given.seconds),
        f"{index.precision} against float32, {len(texts):,} texts": partial(against_float32, index, texts),
    }
    for what, work in measures.items():
        print(f"| {what} | {work()} |", flush=True)
    print("\n| rows of a file | s (CPU s) | peak MB | MB read and written | rows/s |\n| --- | --- | --- | --- | --- |")
    for rows in given.rows:
        cost = measure("search", f"file_of_{rows}")
        print("| " + " | ".join([f"{rows:,}", *cost.cells(), f"{rows / cost.seconds:.0f}"]) + " |", flush=True)
