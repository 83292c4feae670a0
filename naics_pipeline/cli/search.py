"""Codes for codes, for free text and for files of it: `nearest`, `search`, `classify`, `benchmark`, `serve`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides, titles_of
from naics_pipeline.errors import NaicsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.search.answers import Answer
    from naics_pipeline.search.batch import Job
    from naics_pipeline.search.classify import Coding
    from naics_pipeline.search.index import Index

app = typer.Typer()

THRESHOLD = 0.5
Threshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="The answer is the deepest code that is at least so probable.")
]
IndexPath = Annotated[Path | None, typer.Option("--index", help="An index's directory; without it naics_index.")]
Base = Annotated[
    str | None, typer.Option("--base", help="Where the base model is, if not where the index was made: a directory.")
]


class Engines(StrEnum):
    """What runs the workers of a batch."""

    processes = "processes"
    ray = "ray"


@app.command(epilog="Examples: naics nearest 111110 · naics nearest 3115 -k 5 --embeddings mine.parquet")
def nearest(
    code: Annotated[str, typer.Argument(help="Two to six digits.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings file; without it the refined ones, else those of the text model.")
    ] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The codes nearest to a code in the embedding space."""
    from naics_pipeline.search.nearest import nearest as search
    from naics_pipeline.text_model.embeddings import read_embeddings

    store = Store(config.load(profile, overrides(set_)).settings.data_dir)
    file = embeddings or _most_refined(store)
    space = read_embeddings(file)
    if space.failed_gate:
        typer.echo(f"{file}: these points failed the gate: {space.failed_gate}. --embeddings names others.", err=True)
    titles = titles_of(store)
    table = Table("code", "title", "distance", title=f"{code} {titles.get(code, '')}", title_justify="left")
    for row in search(space, code, k).iter_rows(named=True):
        table.add_row(row["code"], titles.get(row["code"], ""), f"{row['distance']:.3f}")
    Console().print(table)
    # Below the table and not in it: a caption as narrow as the table would cut the path.
    typer.echo(file)


@app.command(epilog="Examples: naics search 'mobile dog grooming van' · naics search 'violin repair' 'pizza shop' -k 3")
def search(
    texts: Annotated[list[str], typer.Argument(help="What a business does, in its own words; one or more.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many codes for each.")] = 5,
    threshold: Threshold = THRESHOLD,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with reasons for every code.")] = False,
    index: IndexPath = None,
    base: Base = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The six-digit codes that suit free text best, how probable each is, and why."""
    found = _index(index, base, profile, set_).search(texts, k, threshold)
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in found], indent=2, ensure_ascii=False))
        return
    for answer in found:
        Console().print(_answer_table(answer))


@app.command(
    epilog="Examples: naics classify firms.csv --text activity --out coded.parquet --top 1 · "
    "naics classify firms/ --text activity --out coded/ --workers 4"
)
def classify(
    files: Annotated[list[Path], typer.Argument(help="CSV or Parquet files, or directories or patterns of them.")],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column that says what a business does.")],
    out: Annotated[
        Path, typer.Option(help="File to write, with every row and column of one input; else a directory of such.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many codes for each row.")] = 3,
    threshold: Threshold = THRESHOLD,
    workers: Annotated[int, typer.Option(min=1, help="Processes that each code one file at a time.")] = 1,
    engine: Annotated[Engines, typer.Option(help="Where workers run: on this machine, or as Ray finds room.")] = (
        Engines.processes
    ),
    index: IndexPath = None,
    base: Base = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Codes for every row of files of any size and number; interrupted, the next run goes on where it stopped."""
    from naics_pipeline.search.batch import Job, one_file
    from naics_pipeline.search.classify import SUFFIXES, Coding

    coding = Coding(text, top, threshold)
    if out.suffix and (file := one_file(files)):
        if (workers, engine) != (1, Engines.processes):
            raise NaicsError("--workers and --engine: one file is coded by one process. Split it, or leave them out.")
        _classify_file(file, out, coding, _index(index, base, profile, set_))
        return
    if out.suffix.lower() in SUFFIXES:
        raise NaicsError(f"--out {out}: what comes of several files needs a directory, and this names a file.")
    settings = config.load(profile, overrides(set_)).settings
    found = index or Store(settings.data_dir).local("naics_index")
    _classify_batch(
        files, Job.of(found, out, coding, settings.accelerator, base, settings.search.precision), workers, engine
    )


def _classify_file(file: Path, out: Path, coding: "Coding", index: "Index") -> None:
    from naics_pipeline.search.classify import Task, classify_file

    task = Task(file, out, coding)
    with _progress("rows") as show:
        done = classify_file(index, task, lambda coded: show(coded.rows, f"{coded.bad:,} bad"))
    typer.echo(f"{done.rows:,} rows in {out}, {done.bad:,} of them without a usable text ({task.bad_rows}).")
    if done.resumed:
        typer.echo(f"{done.resumed:,} were done by an earlier run.")


def _classify_batch(files: list[Path], job: "Job", workers: int, engine: Engines) -> None:
    from naics_pipeline.search.batch import MANIFEST, find_shards, run_batch
    from naics_pipeline.search.on_ray import on_ray
    from naics_pipeline.search.processes import engine_of

    shards = find_shards(files, job.out)
    run = partial(on_ray, workers=workers) if engine == Engines.ray else engine_of(workers)
    with _progress(f"of {len(shards):,} files") as show:
        done = run_batch(job, shards, run, lambda d: show(len(d.records), f"{d.rows:,} rows, {d.bad_rows:,} bad"))
    typer.echo(
        f"{done.shards:,} files with {done.rows:,} rows in {job.out}, {done.bad_rows:,} of them without a usable text "
        f"({job.out / MANIFEST})."
    )
    if done.earlier:
        typer.echo(f"{done.earlier:,} files were done by an earlier run.")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, str], None]]:
    """Shows how many are done, and more about them."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,} " + what + ", {task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("")
        yield lambda completed, more: progress.update(bar, completed=completed, description=more)


@app.command(epilog="Examples: naics benchmark labelled.csv --text description --codes naics --json")
def benchmark(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file of texts with their right codes.")],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the texts.")] = "text",
    codes: Annotated[
        str, typer.Option(metavar="COLUMN", help="Right codes, one or several separated by blanks.")
    ] = "codes",
    rows: Annotated[int, typer.Option(min=0, help="How many confusions and errors to list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON, nothing else.")] = False,
    index: IndexPath = None,
    base: Base = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """How well an index codes a labelled file: top k, by digits, calibration, confusions, the surest errors."""
    from naics_pipeline.search.benchmark import benchmark as measure
    from naics_pipeline.search.benchmark import read_labels

    labels = read_labels(file, text, codes)
    found = measure(_index(index, base, profile, set_), labels)
    if as_json:
        typer.echo(json.dumps(found.metrics, indent=2))
        return
    table = Table("measure", "value", title=str(file), title_justify="left")
    for name, value in found.metrics.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    for title, frame in (("Taken for another code", found.confusions), ("Surest errors", found.errors)):
        listed = Table(*frame.columns, title=title, title_justify="left")
        for row in frame.head(rows).iter_rows():
            listed.add_row(*(f"{value:.3f}" if isinstance(value, float) else escape(str(value)) for value in row))
        Console().print(listed)


@app.command(epilog="Examples: naics serve · naics serve --port 9000 --index /path/to/naics_index")
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; every one but this machine's own is open to others.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    allow: Annotated[list[str] | None, typer.Option(help="Further name that the page may be reached by.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of one address.")] = 200.0,
    index: IndexPath = None,
    base: Base = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """A page to search and to code files, and a JSON API (/openapi.json). Nothing that is asked is kept."""
    import uvicorn

    from naics_pipeline.serve.app import LOCAL, create_app
    from naics_pipeline.serve.limits import Limits

    app = create_app(_index(index, base, profile, set_), Limits(rate=rate), [*LOCAL, host, *(allow or [])])
    typer.echo(f"http://{host}:{port}")
    # No access log: it would hold who asked when.
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")


def _index(path: Path | None, base: str | None, profile: str | None, set_: list[str] | None) -> "Index":
    from naics_pipeline.search.index import Index

    settings = config.load(profile, overrides(set_)).settings
    return Index.load(
        path or Store(settings.data_dir).local("naics_index"),
        accelerator=settings.accelerator,
        base=base,
        precision=settings.search.precision,
    )


def _answer_table(answer: "Answer") -> Table:
    table = Table("code", "title", "probability", "because of", "not to be confused with")
    table.title, table.title_justify = escape(answer.text or "(no text)"), "left"
    for found in answer.candidates:
        why = "; ".join([*found.entries, *([f"words: {', '.join(found.words)}"] if found.words else [])])
        others = "; ".join(f"{other.code} {other.title}" for other in found.confused_with[:2])
        table.add_row(found.code, found.title, f"{found.probability:.3f}", escape(why), escape(others))
    said = answer.answer
    lines = [f"Answer: {said.code} {said.title} ({said.probability:.2f})" if said else "No answer is probable enough."]
    lines += [f"“{part.part}”: {part.code} {part.title} ({part.probability:.2f})" for part in answer.activities]
    table.caption, table.caption_justify = escape("\n".join([*lines, *answer.notes])), "left"
    return table


def _most_refined(store: Store) -> Path:
    refined, text = "refined_embeddings.parquet", "text_embeddings.parquet"
    return store.local(refined if store.exists(refined) else text)
