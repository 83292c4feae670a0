"""What the groups of commands share: options of the settings, titles, and files that belong together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="File of conf/profiles (else NAICS_PROFILE, sample)."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
]


def overrides(pairs: list[str] | None) -> dict[str, str]:
    """Values of --set by dotted key."""
    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write it as --set key=value, such as --set seed=7.")
        found[key.strip()] = value
    return found


def titles_of(store: Store) -> dict[str, str]:
    """Code → title; empty where there are no descriptions yet."""
    import polars as pl

    if not store.exists("descriptions.parquet"):
        return {}
    frame = pl.read_parquet(store.local("descriptions.parquet"), columns=["code", "title"])
    return dict(frame.iter_rows())


def texts_beside(file: Path, embeddings: "Embeddings", kind: str) -> "Embeddings | None":
    """Points of texts of the same run: queries, places or labelled texts."""
    from naics_pipeline.text_model.embeddings import read_embeddings

    beside = file.with_name(file.name.replace("_embeddings", f"_{kind}"))
    if beside == file or not beside.is_file():
        return None
    texts = read_embeddings(beside)
    return texts if texts.metadata.get("run_id") == embeddings.metadata.get("run_id") else None
