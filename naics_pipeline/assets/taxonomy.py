"""The taxonomy as tables: codes and their texts, index entries, and every pair of codes."""

from pathlib import Path

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import MONTHLY, asset, columns, frame_output, rows, version
from naics_pipeline.assets.supplied import CORRECTIONS
from naics_pipeline.config import Config
from naics_pipeline.storage import Store
from naics_pipeline.taxonomy import census, text, tree
from naics_pipeline.taxonomy.supplied import with_corrections

SOURCE = ("source", "vintage")
SOURCE_CHECKSUMS = "source_checksums"
"""Metadata of `descriptions`: file name → SHA-256 of what it was made from."""
PAIR = {
    "idx_i": ("u16", "index of the first code"),
    "idx_j": ("u16", "index of the second code, above idx_i"),
    "code_i": ("string", "first code"),
    "code_j": ("string", "second code"),
}


def read_books(conf: Config, store: Store) -> census.Workbooks:
    """The workbooks of the configured source; downloads are kept in the data directory."""
    settings = conf.settings
    return census.read_source(settings.source, settings.vintage, settings.download, source_cache(store))


def source_cache(store: Store) -> Path:
    """Where downloaded workbooks are kept."""
    return store.path("source")


@asset(
    group_name="taxonomy",
    kinds={"polars", "parquet"},
    freshness_policy=MONTHLY,
    code_version=version(3, *SOURCE, "taxonomy"),
    supplied=CORRECTIONS,
    metadata=columns(
        code=("string", "six-digit code the entry belongs to"),
        entry=("string", "an activity, as the index words it"),
        split=("string", "train; validation, which settings are chosen on; held_out, which results are reported on"),
    ),
)
def index_entries(conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]) -> dg.Output[pl.DataFrame]:
    """One row per entry of the alphabetic index: an activity and the code it belongs to."""
    books = read_books(conf, store)
    shares = conf.settings.taxonomy
    frame = text.index_entries(books, shares.held_out_fraction, shares.validation_fraction)
    own = len(frame)
    if shares.corrections is not None:
        frame = with_corrections(frame, Path(shares.corrections), books.codes["code"])
    splits = rows(frame["split"].value_counts(sort=True))
    return frame_output(frame, {"source": books.origin, "splits": splits, "corrections": len(frame) - own})


@asset(
    group_name="taxonomy",
    kinds={"polars", "parquet"},
    freshness_policy=MONTHLY,
    code_version=version(2, *SOURCE),
    metadata=columns(
        index=("u16", "rank of the code in string order"),
        level=("u8", "number of digits, 2 to 6"),
        code=("string", "NAICS code; merged sectors by their first code"),
        title=("string", "official title"),
        description=("string", "what the code covers; never empty"),
        description_from=("string", "code whose text the description is"),
        examples=("list[string]", "train-split index entries, else illustrative examples; null where there are none"),
        excluded=("string", "cross-reference statements; null where there are none"),
        excluded_codes=("list[string]", "codes cited in them"),
    ),
)
def descriptions(
    conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store], index_entries: pl.DataFrame
) -> dg.Output[pl.DataFrame]:
    """One row per code, in Census order: its title and cleaned texts."""
    books = read_books(conf, store)
    frame = text.descriptions(books, index_entries)
    return frame_output(
        frame,
        {
            "source": books.origin,
            SOURCE_CHECKSUMS: books.checksums,
            "levels": rows(frame["level"].value_counts().sort("level")),
        },
    )


@asset(
    group_name="taxonomy",
    kinds={"polars", "parquet"},
    code_version=version(2, *SOURCE),
    metadata=columns(
        phrase=("string", "an activity, as a cross-reference words it"),
        code=("string", "the code it is classified in"),
        under=("string", "the code whose text says so: easily confused with it"),
    ),
)
def activity_phrases(
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
) -> dg.Output[pl.DataFrame]:
    """One row per activity that a cross-reference statement assigns to another code: a query with its answer."""
    return frame_output(text.activity_phrases(read_books(conf, store), descriptions, index_entries))


@asset(
    group_name="taxonomy",
    kinds={"polars", "parquet"},
    code_version=version(1),
    metadata=columns(
        **PAIR,
        relation_id=("u8", "1 child ... 14 third cousin, 99 unrelated"),
        relation=("string", "name of the relation"),
        excluded=("bool", "either code names the other among what it excludes"),
    ),
)
def relations(descriptions: pl.DataFrame) -> dg.Output[pl.DataFrame]:
    """One row per unordered pair of codes: how they are related, and whether one excludes the other."""
    frame = tree.relations(descriptions)
    counts = frame.group_by("relation_id", "relation").len().sort("relation_id")
    return frame_output(frame, {"relations": rows(counts), "excluded_pairs": int(frame["excluded"].sum())})


@asset(
    group_name="taxonomy",
    kinds={"polars", "parquet"},
    code_version=version(1),
    metadata=columns(
        **PAIR,
        distance=(
            "f32",
            "path length, half a step less along a line of descent; 10 across sectors",
        ),
        tree_distance=("u8", "edges on the path, with one root above the sectors: a true tree metric"),
    ),
)
def distances(descriptions: pl.DataFrame) -> dg.Output[pl.DataFrame]:
    """One row per unordered pair of codes: how far apart they lie in the tree."""
    frame = tree.distances(descriptions)
    return frame_output(frame, {"histogram": rows(frame["distance"].value_counts().sort("distance"))})
