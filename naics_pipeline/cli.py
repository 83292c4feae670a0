"""`naics`: look at the settings, measure any embeddings file, ask for the neighbours of a code."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.errors import NaicsError, SettingsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help=__doc__)

Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="File of conf/profiles (else NAICS_PROFILE, sample)."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
]


@app.command("config", epilog="Examples: naics config · naics config data_dir · naics config --profile cpu")
def show_config(
    key: Annotated[str | None, typer.Argument(help="Print the value of this setting alone.")] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The effective settings and where each one came from."""
    loaded = config.load(profile, _overrides(set_))
    values = loaded.flat()
    if key is not None:
        if key not in values:
            config.refuse_unknown(key, "naics config")
        typer.echo(_plain(values[key]))
        return
    table = Table(title=f"profile {loaded.profile}", title_justify="left")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, value in values.items():
        origin = loaded.origins[name]
        table.add_row(name, _plain(value), origin, style="dim" if origin == "default" else None)
    Console().print(table)


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
            help="Parquet file of texts below their codes, likewise, for the read-outs nearest_entry and mixed; "
            "without it x_places.parquet beside FILE."
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
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import read_embeddings

    cutoffs = config.load(profile, _overrides(set_)).settings.evaluation.cutoffs
    embeddings = read_embeddings(file)
    tree = Tree.from_codes(embeddings.codes.tolist())
    metrics = structure.evaluate_embeddings(embeddings, tree=tree, cutoffs=cutoffs)
    named = {"queries": queries, "places": places, "labelled": labelled}
    beside = {kind: read_embeddings(path) if path else _beside(file, embeddings, kind) for kind, path in named.items()}
    if (texts := beside.pop("queries")) is not None:
        metrics |= retrieval.evaluate_texts(embeddings, texts, **beside).metrics
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
    from naics_pipeline.search.index import nearest as search
    from naics_pipeline.text_model.embeddings import read_embeddings

    store = Store(config.load(profile, _overrides(set_)).settings.data_dir)
    file = embeddings or _newest_kind(store)
    titles = _titles(store)
    table = Table("code", "title", "distance", title=f"{code} {titles.get(code, '')}", title_justify="left")
    table.caption = str(file)
    for row in search(read_embeddings(file), code, k).iter_rows(named=True):
        table.add_row(row["code"], titles.get(row["code"], ""), f"{row['distance']:.3f}")
    Console().print(table)


@app.command(epilog="Examples: naics search 'mobile dog grooming van' · naics search 'violin repair' 'pizza shop' -k 3")
def search(
    texts: Annotated[list[str], typer.Argument(help="What a business does, in its own words; one or more.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many codes for each.")] = 5,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The six-digit codes that suit free text best, and how far from it they lie in the text model's space."""
    import polars as pl

    from naics_pipeline.search import free_text
    from naics_pipeline.text_model.embeddings import read_embeddings
    from naics_pipeline.text_model.inference import TextEmbedder

    settings = config.load(profile, _overrides(set_)).settings
    store = Store(settings.data_dir)
    space, places, queries = (
        read_embeddings(store.local(f"text_{kind}.parquet")) for kind in ("embeddings", "places", "queries")
    )
    stage = store.local(f"stages/{space.metadata['stage']}")
    embedder = TextEmbedder.load(stage / "best.ckpt", settings.accelerator)
    rows = embedder.embed_rows(pl.DataFrame({"text": texts, "code": ""}))
    titles = _titles(store)
    table = Table("text", "code", "title", "distance")
    for row in free_text.search(rows, space, places, queries, k).iter_rows(named=True):
        words = row["text"] if row["rank"] == 1 else ""
        table.add_row(
            words, row["code"], titles.get(row["code"], ""), f"{row['distance']:.3f}", end_section=row["rank"] == k
        )
    Console().print(table)


def main() -> None:
    """Entry point: an error made on purpose is shown as one message, without a traceback."""
    try:
        app()
    except NaicsError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise SystemExit(1) from None


def _overrides(pairs: list[str] | None) -> dict[str, str]:
    overrides = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write it as --set key=value, such as --set seed=7.")
        overrides[key.strip()] = value
    return overrides


def _beside(file: Path, embeddings: "Embeddings", kind: str) -> "Embeddings | None":
    """Points of texts of the same run: queries, places or labelled texts."""
    from naics_pipeline.text_model.embeddings import read_embeddings

    beside = file.with_name(file.name.replace("_embeddings", f"_{kind}"))
    if beside == file or not beside.is_file():
        return None
    texts = read_embeddings(beside)
    return texts if texts.metadata.get("run_id") == embeddings.metadata.get("run_id") else None


def _newest_kind(store: Store) -> Path:
    refined, text = "refined_embeddings.parquet", "text_embeddings.parquet"
    return store.local(refined if store.exists(refined) else text)


def _titles(store: Store) -> dict[str, str]:
    import polars as pl

    if not store.exists("descriptions.parquet"):
        return {}
    frame = pl.read_parquet(store.local("descriptions.parquet"), columns=["code", "title"])
    return dict(frame.iter_rows())


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float) -> str:
    return str(value) if isinstance(value, bool) else f"{value:.4g}"


if __name__ == "__main__":
    main()
