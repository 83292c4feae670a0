"""Embeddings for the eye: `explore`, `export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides, texts_beside, titles_of
from naics_pipeline.errors import NaicsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    import polars as pl

    from naics_pipeline.text_model.embeddings import Embeddings

app = typer.Typer()

_LABELS = {"refined_embeddings": "Refined by the graph", "text_embeddings": "Text model"}


class Viewer(StrEnum):
    """Whose format `export` writes."""

    PROJECTOR = "projector"
    ATLAS = "atlas"


@app.command(
    epilog="Examples: naics explore · naics explore mine.parquet --out mine.html · naics explore --columns wages.csv"
)
def explore(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Embeddings files, a space each; without any the refined ones and the text model's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("explorer.html"),
    columns: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file to colour by: a column code, and any others.")
    ] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Writes a page on which all codes are explored as a Poincaré disk: one file, to be opened in any browser."""
    import polars as pl

    from naics_pipeline.evaluation.explorer.content import explorer_content
    from naics_pipeline.evaluation.explorer.page import write_explorer
    from naics_pipeline.evaluation.explorer.texts import SearchedTexts, entries_among
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import read_embeddings

    store = Store(config.load(profile, overrides(set_)).settings.data_dir)
    files = files or _kinds(store)
    labels = [_LABELS.get(file.stem, file.stem) for file in files]
    if len(set(labels)) < len(labels):
        labels = [str(file) for file in files]
    spaces = {label: read_embeddings(file) for label, file in zip(labels, files, strict=True)}
    tree = Tree.from_codes(next(iter(spaces.values())).codes.tolist())
    known = store.exists("descriptions.parquet")
    empty = pl.DataFrame(schema={"code": pl.String, "title": pl.String})
    searched = _with_texts(files)
    content = explorer_content(
        spaces,
        pl.read_parquet(store.local("descriptions.parquet")) if known else empty,
        tree,
        texts=None if searched is None else SearchedTexts.of(*searched),
        examples=None if searched is None else entries_among(searched[-1]),
        columns=None if columns is None else _read_columns(columns),
        about=", ".join(file.name for file in files),
    )
    write_explorer(out, content)
    typer.echo(f"{out}: {len(tree):,} codes, {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")


@app.command(epilog="Examples: naics export codes.parquet --to atlas · naics export runs/naics --to projector")
def export(
    out: Annotated[Path, typer.Argument(help="The Parquet file (atlas) or the directory (projector) to write.")],
    to: Annotated[Viewer, typer.Option(help="Embedding Atlas, or the projector of TensorBoard.")] = Viewer.ATLAS,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings file; without it the refined ones, else those of the text model.")
    ] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The points for other viewers: places in the disk with true neighbours, or tangent vectors."""
    from naics_pipeline.evaluation import export as exporting
    from naics_pipeline.text_model.embeddings import read_embeddings

    store = Store(config.load(profile, overrides(set_)).settings.data_dir)
    space = read_embeddings(embeddings or _kinds(store)[0])
    if to is Viewer.ATLAS:
        exporting.export_atlas(space, titles_of(store), out)
        typer.echo(f"embedding-atlas {out} --text title --x x --y y --neighbors neighbors")
    else:
        exporting.export_projector(space, titles_of(store), out)
        typer.echo(f"tensorboard --logdir {out}")


def _kinds(store: Store) -> list[Path]:
    """The files of points that there are, the refined one first."""
    names = ("refined_embeddings.parquet", "text_embeddings.parquet")
    found = [store.local(name) for name in names if store.exists(name)]
    return found or [store.local(names[1])]


def _with_texts(files: list[Path]) -> "tuple[Embeddings, Embeddings, Embeddings] | None":
    """The first of the spaces that has queries and places of its run beside it, and these."""
    from naics_pipeline.text_model.embeddings import read_embeddings

    for file in files:
        space = read_embeddings(file)
        queries, places = (texts_beside(file, space, kind) for kind in ("queries", "places"))
        if queries is not None and places is not None:
            return space, queries, places
    return None


def _read_columns(file: Path) -> "pl.DataFrame":
    import polars as pl

    try:
        # A code is no number.
        return (
            pl.read_parquet(file)
            if file.suffix == ".parquet"
            else pl.read_csv(file, schema_overrides={"code": pl.String})
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NaicsError(f"--columns {file}: not a readable CSV or Parquet file ({error}).") from error
