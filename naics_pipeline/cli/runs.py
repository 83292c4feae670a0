"""Runs beside one another: `compare`, `verify`, `seeds`."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides, titles_of
from naics_pipeline.errors import NaicsError, SettingsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    import polars as pl

    from naics_pipeline.evaluation.runs.comparison import RunComparison
    from naics_pipeline.evaluation.runs.scores import RunRecord

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
SHARED = (
    *(f"{name}.parquet" for name in ("descriptions", "index_entries", "activity_phrases", "relations", "distances")),
    "token_cache",
)
"""What does not depend on the seed and is made once."""
CACHES = ("hidden_states", "frozen_vectors")
"""What is kept by content, so that all seeds may use one."""


@app.command(epilog="Examples: naics compare 348d0a5d 9c1f · naics compare old/data data --out difference.html")
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Two or more: the beginning of a Dagster or MLflow run's id, or a directory."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes; without it reports/compare_<run>_<run>.html.")
    ] = None,
    as_json: Json = False,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Evaluated runs against the first: every metric with its paired interval, what changed most, settings, curves."""
    from naics_pipeline.evaluation.metrics_files import plain
    from naics_pipeline.evaluation.runs.comparison import compare_runs, find_run
    from naics_pipeline.evaluation.runs.page import short_name, write_comparison

    if len(runs) < 2:
        raise NaicsError("naics compare: name at least two runs, the one to compare with first.")
    store = Store(config.load(profile, overrides(set_)).settings.data_dir)
    first, *others = (find_run(name, store) for name in runs)
    comparisons = [compare_runs(first, other) for other in others]
    name = "_".join(["compare", *(short_name(run) for run in (first, *others))])
    path = out or store.path(f"reports/{name}.html")
    write_comparison(path, comparisons, titles_of(store))
    if as_json:
        typer.echo(json.dumps(plain([_as_json(comparison) for comparison in comparisons]), indent=2))
        return
    for comparison in comparisons:
        Console().print(_difference_table(comparison))
    typer.echo(f"Page  {path}")


def _as_json(comparison: "RunComparison") -> dict[str, Any]:
    differences = [{**asdict(row), "change": row.change, "verdict": row.verdict} for row in comparison.differences]
    return {
        "first": comparison.first.name,
        "second": comparison.second.name,
        "settings": comparison.settings,
        "data": comparison.data,
        "differences": differences,
    }


def _difference_table(comparison: "RunComparison") -> Table:
    from naics_pipeline.evaluation.runs.seeds import HEADLINE

    title = f"{comparison.first.name} → {comparison.second.name}"
    table = Table("space", "metric", "first", "second", "difference", "95 %", "second is", title=title)
    table.title_justify = "left"
    for row in comparison.differences:
        if (row.space, row.metric) in HEADLINE:
            found = row.comparison
            interval = f"{found.low:+.4f} to {found.high:+.4f}" if found and found.n else ""
            numbers = (_short(row.first), _short(row.second), f"{row.change:+.4f}", interval)
            table.add_row(row.space, row.metric, *numbers, row.verdict)
    return table


@app.command(epilog="Examples: naics verify before.parquet after.parquet · naics verify a.parquet b.parquet --json")
def verify(
    before: Annotated[Path, typer.Argument(help="Embeddings file: columns code and point.")],
    after: Annotated[Path, typer.Argument(help="Embeddings file of the same codes.")],
    cophenetic: Annotated[float, typer.Option(help="Least change of cophenetic_correlation.")] = -0.02,
    ndcg: Annotated[float, typer.Option(help="Least change of ndcg@10.")] = -0.01,
    parent: Annotated[float, typer.Option(help="Least change of parent_retrieval@1.")] = 0.05,
    parent_is_high: Annotated[
        float, typer.Option(help="A parent_retrieval@1 that was at least this only has to stay so.")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """The gate for any two embeddings files: exit code 0 where AFTER keeps what BEFORE had, 1 where it does not."""
    from naics_pipeline.evaluation.compare import Thresholds, gate
    from naics_pipeline.evaluation.metrics_files import plain
    from naics_pipeline.evaluation.structure import evaluate_embeddings
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import read_embeddings

    first, second = read_embeddings(before), read_embeddings(after)
    tree = Tree.from_codes(first.codes.tolist())
    rules = gate(
        evaluate_embeddings(first, tree=tree),
        evaluate_embeddings(second, tree=tree),
        Thresholds(cophenetic, ndcg, parent, parent_is_high),
    )
    passed = all(rule.passed for rule in rules)
    if as_json:
        found = [{**asdict(rule), "change": rule.change, "passed": rule.passed} for rule in rules]
        typer.echo(json.dumps(plain({"passed": passed, "rules": found}), indent=2))
    else:
        table = Table("metric", "before", "after", "change", "at least", "passed")
        for rule in rules:
            numbers = (f"{rule.before:.4f}", f"{rule.after:.4f}", f"{rule.change:+.4f}", f"{rule.minimum:+.4f}")
            table.add_row(rule.metric, *numbers, "yes" if rule.passed else "no")
        Console().print(table)
    if not passed:
        raise typer.Exit(1)


@app.command(epilog="Examples: naics seeds · naics seeds --seeds 1,2,3,4,5 --set graph.steps=120 --json")
def seeds(
    seeds_: Annotated[str, typer.Option("--seeds", metavar="SEED,SEED,...", help="Which.")] = "42,43,44",
    as_json: Json = False,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Trains and evaluates once for each seed and says how far each metric is known: mean, spread, 95 % interval.

    Each seed has a data directory of its own, seeds/<seed> in that of the settings; what does not depend on the seed
    must have been made there before. A seed that is done with these settings is not done again, and one that was
    killed goes on from its last epoch.
    """
    from naics_pipeline.evaluation.runs.seeds import over_seeds

    given = overrides(set_)
    store = Store(config.load(profile, given).settings.data_dir)
    if not store.is_local:
        raise SettingsError(f"data_dir = {store.root}: naics seeds works in a local directory only.")
    runs = {seed: _run_of_seed(store, profile, given, seed) for seed in _parsed(seeds_)}
    table = over_seeds(runs)
    if as_json:
        typer.echo(json.dumps(table.to_dicts(), indent=2))
        return
    Console().print(_seed_table(table, list(runs)))


def _parsed(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise NaicsError(f"--seeds {text}: write whole numbers with commas between, such as 42,43,44.") from error


def _run_of_seed(store: Store, profile: str | None, given: dict[str, str], seed: int) -> "RunRecord":
    """The finished run of a seed, trained now where there is none with these settings."""
    from naics_pipeline.evaluation.runs.scores import runs_in
    from naics_pipeline.evaluation.runs.seeds import was_made_with

    directory = store.path(f"seeds/{seed}")
    asked = given | {"seed": str(seed), "data_dir": str(directory)}
    settings = config.load(profile, asked)
    done = [run for run in runs_in(Store(str(directory))) if was_made_with(run, settings.flat())]
    if done:
        typer.echo(f"Seed {seed}: done before, run {done[0].name[:8]}.", err=True)
        return done[0]
    _share(store, directory)
    typer.echo(f"Seed {seed}: training in {directory}.", err=True)
    _train(settings.profile, asked, directory / "run_config.json")
    return runs_in(Store(str(directory)))[0]


def _share(store: Store, directory: Path) -> None:
    """Links to what does not depend on the seed."""
    missing = [name for name in SHARED if not store.exists(name)]
    if missing:
        raise NaicsError(
            f"{store.root}: {', '.join(missing)} not made yet. Run dagster asset materialize --select "
            "'+triplets or activity_phrases or token_cache' with the same settings first."
        )
    directory.mkdir(parents=True, exist_ok=True)
    for name in CACHES:
        store.path(name).mkdir(exist_ok=True)
    for name in (*SHARED, *CACHES):
        link = directory / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(store.path(name), directory))


def _train(profile: str, asked: dict[str, str], file: Path) -> None:
    """The job `retrain` in a process of its own, its output on standard error."""
    run_config = {
        "resources": {"conf": {"config": {"profile": profile, "overrides": asked}}},
        "loggers": {"progress": {}},
    }
    file.write_text(json.dumps(run_config, indent=2), encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "naics_pipeline.definitions", "-j", "retrain"]
    done = subprocess.run([*command, "-c", str(file)], stdout=sys.stderr, check=False)
    if done.returncode:
        raise NaicsError(f"seed {asked['seed']}: the run failed; the same command goes on where it stopped.")


def _seed_table(table: "pl.DataFrame", seeds_: list[int]) -> Table:
    from naics_pipeline.evaluation.runs.seeds import HEADLINE

    shown = Table("space", "metric", "mean", "sd", "95 %", *(f"seed {seed}" for seed in seeds_))
    for row in table.iter_rows(named=True):
        if (row["space"], row["metric"]) in HEADLINE:
            interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            each = [_short(row[f"seed_{seed}"]) for seed in seeds_]
            shown.add_row(row["space"], row["metric"], _short(row["mean"]), _short(row["sd"]), interval, *each)
    return shown


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
