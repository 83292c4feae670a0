"""What embeddings are worth: `evaluate`, `downstream`."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides, texts_beside
from naics_pipeline.storage import Store

app = typer.Typer()


@app.command(epilog="Examples: naics evaluate mine.parquet · naics evaluate mine.parquet --json > metrics.json")
def evaluate(
    file: Annotated[Path, typer.Argument(help="Parquet file with the columns code and point.")],
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file of texts as points of the same space, each with its right code, in the columns code and "
            "point. For FILE x_embeddings.parquet: x_queries.parquet beside it, where both are of one run."
        ),
    ] = None,
    places: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file of texts below their codes, likewise, for the read-outs nearest_entry, centroid and "
            "mixed; without it x_places.parquet beside FILE."
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Parquet file of labelled texts, likewise; without it x_labelled.parquet beside FILE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """How well an embeddings file reproduces the tree and finds codes for texts: every metric, beside its ceiling."""
    from naics_pipeline.evaluation import retrieval, structure
    from naics_pipeline.evaluation.tasks import embedding_tasks
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import read_embeddings

    settings = config.load(profile, overrides(set_)).settings
    cutoffs = settings.evaluation.cutoffs
    embeddings = read_embeddings(file)
    tree = Tree.from_codes(embeddings.codes.tolist())
    metrics = structure.evaluate_embeddings(embeddings, tree=tree, cutoffs=cutoffs)
    metrics |= embedding_tasks(embeddings, tree, seed=settings.seed).metrics
    named = {"queries": queries, "places": places, "labelled": labelled}
    beside = {
        kind: read_embeddings(path) if path else texts_beside(file, embeddings, kind) for kind, path in named.items()
    }
    if (texts := beside["queries"]) is not None:
        metrics |= retrieval.evaluate_texts(embeddings, texts, beside["places"], beside["labelled"]).metrics
    else:
        typer.echo("No file of queries of this run beside it: structure only (--queries names one).", err=True)
    if as_json:
        typer.echo(json.dumps({name: _number(value) for name, value in metrics.items()}, indent=2))
        return
    ceiling = structure.ceiling(tree, cutoffs=cutoffs)
    table = Table("metric", "value", "ceiling", title=f"{file} ({len(tree)} codes)", title_justify="left")
    for name, value in metrics.items():
        table.add_row(name, _short(value), _short(ceiling[name]) if name in ceiling else "")
    Console().print(table)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float) -> str:
    return str(value) if isinstance(value, bool) else f"{value:.4g}"


@app.command(epilog="Examples: naics downstream --data wages.csv --target wage · add --out wages.png for a plot")
def downstream(
    data: Annotated[Path, typer.Option(help="CSV or Parquet file of codes with a number; a code may come again.")],
    target: Annotated[str, typer.Option(help="Its column of numbers.")],
    code: Annotated[str, typer.Option(help="Its column of codes, two to six digits.")] = "code",
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings file; without it refined_embeddings.parquet of the data directory.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a plot of predicted against actual values (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """What the points say of a number of yours for codes never seen, beside ancestors and the codes alone."""
    from naics_pipeline.evaluation import plots
    from naics_pipeline.evaluation.downstream import FOLDS, predictions, read_table, summary
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import read_embeddings

    settings = config.load(profile, overrides(set_)).settings
    points = read_embeddings(embeddings or Store(settings.data_dir).local("refined_embeddings.parquet"))
    tree = Tree.from_codes(points.codes.tolist())
    table = read_table(data, target, tree, code)
    if table.unknown:
        named = ", ".join(table.unknown[:5])
        typer.echo(f"{len(table.unknown)} codes of {data} are none of these embeddings, left out: {named}", err=True)
    found = predictions(table, points, tree, seed=settings.seed)
    if out is not None:
        out.write_bytes(plots.predictions(table.target, {name: row.predicted for name, row in found.items()}, target))
    if as_json:
        typer.echo(json.dumps(summary(found), indent=2))
        return
    title = f"{target}: {len(table.target)} rows of {len(set(table.code.tolist()))} codes, {FOLDS} folds of codes"
    columns = ("features", "R²", "mean error", "embedding errs less by", "95 %")
    shown = Table(*columns, title=title, title_justify="left")
    for name, row in found.items():
        gain = row.against
        interval = "" if gain is None else f"{gain.low:.4g} to {gain.high:.4g}"
        shown.add_row(name, _short(row.r2), _short(row.mae), "" if gain is None else _short(gain.difference), interval)
    Console().print(shown)
