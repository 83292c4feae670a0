"""Codes for codes and for free text: `nearest`, `search`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides, titles_of
from naics_pipeline.storage import Store

app = typer.Typer()


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
    file = embeddings or _newest_kind(store)
    titles = titles_of(store)
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
    from naics_pipeline.text_model.checkpoints import BEST
    from naics_pipeline.text_model.embeddings import read_embeddings
    from naics_pipeline.text_model.inference import TextEmbedder

    settings = config.load(profile, overrides(set_)).settings
    store = Store(settings.data_dir)
    space, places, queries = (
        read_embeddings(store.local(f"text_{kind}.parquet")) for kind in ("embeddings", "places", "queries")
    )
    stage = store.local(f"stages/{space.metadata['stage']}")
    embedder = TextEmbedder.load(stage / BEST, settings.accelerator)
    rows = embedder.embed_rows(pl.DataFrame({"text": texts, "code": ""}))
    titles = titles_of(store)
    table = Table("text", "code", "title", "distance")
    for row in free_text.search(rows, space, places, queries, k).iter_rows(named=True):
        words = row["text"] if row["rank"] == 1 else ""
        table.add_row(
            words, row["code"], titles.get(row["code"], ""), f"{row['distance']:.3f}", end_section=row["rank"] == k
        )
    Console().print(table)


def _newest_kind(store: Store) -> Path:
    refined, text = "refined_embeddings.parquet", "text_embeddings.parquet"
    return store.local(refined if store.exists(refined) else text)
