"""What the page shows, as plain values: codes, spaces with their pictures, held-out texts, columns to colour by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.explorer.spaces import PicturedSpace, space_content
from naics_pipeline.evaluation.explorer.texts import SearchedTexts
from naics_pipeline.evaluation.explorer.values import column, number, numbers
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings

_DESCRIPTION = 280


def explorer_content(
    spaces: Mapping[str, Embeddings],
    descriptions: pl.DataFrame,
    tree: Tree,
    *,
    texts: SearchedTexts | None = None,
    examples: pl.DataFrame | None = None,
    columns: pl.DataFrame | None = None,
    about: str = "",
) -> dict[str, Any]:
    """The page's data, ready for JSON. A matrix of all distances is held for each space.

    Args:
        spaces: label → points of all codes; the first is shown first.
        descriptions: code and title, and the description where there is one.
        texts: held-out texts, searched.
        examples: code and text, any number of rows for a code: what belongs to it, to be searched and shown.
        columns: further values to colour by, with the column code.
        about: where this comes from, in a few words.
    Raises:
        ModelError: a space's codes are not those of the tree.
        NaicsError: columns has no column code, none of the tree's codes, or a column of lists.
    """
    pictured = {label: PicturedSpace.of(space, tree) for label, space in spaces.items()}
    own = _code_columns(columns, tree) if columns is not None else []
    return {
        "about": about,
        "codes": _codes(descriptions, tree) | {"examples": _examples(examples, tree)},
        "spaces": [space_content(label, space, tree, texts) for label, space in pictured.items()],
        "columns": [*(_text_columns(texts, tree) if texts is not None else []), *own],
        "texts": None if texts is None else _texts(texts, tree),
    }


def _codes(descriptions: pl.DataFrame, tree: Tree) -> dict[str, Any]:
    wanted = [name for name in ("title", "description") if name in descriptions.columns]
    frame = pl.DataFrame({"code": tree.codes.tolist()})
    frame = frame.join(descriptions.select("code", *wanted), on="code", how="left", maintain_order="left")
    shown = {name: frame[name].fill_null("").to_list() for name in wanted}
    return {
        "code": tree.codes.tolist(),
        "parent": tree.parent.tolist(),
        "title": shown.get("title", [""] * len(tree)),
        "description": [_shortened(text) for text in shown.get("description", [""] * len(tree))],
    }


def _examples(examples: pl.DataFrame | None, tree: Tree) -> list[list[str]]:
    if examples is None:
        return [[] for _ in range(len(tree))]
    grouped = examples.group_by("code").agg(pl.col("text").unique(maintain_order=True))
    known = dict(grouped.iter_rows())
    return [known.get(code, []) for code in tree.codes.tolist()]


def _shortened(text: str) -> str:
    """The text's first words; the ellipsis says that there are more."""
    words = " ".join(text.split())
    return words if len(words) <= _DESCRIPTION else words[:_DESCRIPTION].rsplit(" ", 1)[0] + "…"


def _text_columns(texts: SearchedTexts, tree: Tree) -> list[dict[str, Any]]:
    rate, count = np.full(len(tree), np.nan), np.full(len(tree), np.nan)
    at = tree.position(texts.candidates)
    rate[at] = texts.error_by_candidate()
    count[at] = np.bincount(texts.right, minlength=len(at))
    return [
        column("errors", "Held-out texts that find another code", rate, 3),
        column("count", "Held-out texts", count, 0),
    ]


def _code_columns(columns: pl.DataFrame, tree: Tree) -> list[dict[str, Any]]:
    """Columns of a user's own; numbers as such, all else as categories."""
    if "code" not in columns.columns:
        raise NaicsError(f"columns to colour by: there is no column 'code' among {', '.join(columns.columns)}.")
    given = columns.with_columns(pl.col("code").cast(pl.String)).unique("code", keep="first")
    frame = pl.DataFrame({"code": tree.codes.tolist()})
    frame = frame.join(given, on="code", how="left", maintain_order="left")
    if not given["code"].is_in(frame["code"].to_list()).any():
        raise NaicsError("columns to colour by: none of the values in column 'code' is a code of these embeddings.")
    found = []
    for name in frame.columns[1:]:
        values = frame[name]
        if values.dtype.is_nested():
            raise NaicsError(f"columns to colour by: '{name}' holds {values.dtype}, not one value for each code.")
        if values.dtype.is_numeric():
            found.append(column(f"own {name}", name, values.cast(pl.Float64).fill_null(float("nan")).to_numpy(), 6))
        else:
            shown = values.cast(pl.String).to_list()
            found.append({"name": f"own {name}", "label": name, "kind": "category", "values": shown})
    return found


def _texts(texts: SearchedTexts, tree: Tree) -> dict[str, Any]:
    at = tree.position(texts.candidates)
    sectors, counts = texts.confusion()
    bins = {str(level): texts.reliability(level) for level in LEVELS}
    return {
        "text": texts.texts,
        "right": at[texts.right].tolist(),
        "found": at[texts.found].tolist(),
        "found_probability": numbers(texts.found_probability, 3),
        "right_probability": numbers(texts.right_probability, 3),
        "rank": texts.rank.tolist(),
        "sectors": sectors,
        "confusion": counts.tolist(),
        "reliability": {
            level: {
                "count": found.count.tolist(),
                "probability": numbers(found.probability, 4),
                "right": numbers(found.right, 4),
                "error": number(found.error, 4),
            }
            for level, found in bins.items()
        },
    }
