"""Every triplet (anchor, positive, negative), kept in groups and read back as rows.

Which codes are negatives of (anchor, positive) hangs on the anchor and the positive's distance alone. A row of the file
is one anchor, one distance of positives, and one distance and exclusion of negatives, with both lists of codes: its
triplets are every positive with every negative, and they share every other column. So 120,000 rows say what a billion
would.
"""

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from naics_pipeline.errors import NaicsError
from naics_pipeline.files import replacing
from naics_pipeline.taxonomy.tree import UNRELATED_DISTANCE

FILE = "triplets.parquet"
ROW_GROUP = 16384
# Upper bounds of distance_diff, each with the hardness of what lies at or below it, and that of what lies above all.
_BOUNDS = np.array([0.5, 1.0, 2.0, 3.0, 4.0])
_GRADES = np.array([7, 6, 5, 4, 3, 2], dtype=np.uint8)

_VIEW = """
    CREATE VIEW triplets AS
    SELECT anchor_code, positive_code, unnest(negative_codes) AS negative_code, hardness, excluded, unrelated,
           positive_distance, negative_distance, distance_diff
    FROM (SELECT *, unnest(positive_codes) AS positive_code FROM read_parquet('{file}'))
"""


def hardness(
    distance_anchor_positive: ArrayLike, distance_anchor_negative: ArrayLike, excluded: ArrayLike
) -> np.ndarray:
    """How hard a negative is, as arrays that broadcast against each other.

    Args:
        distance_anchor_positive, distance_anchor_negative: `distance` of `tree.distances`.
        excluded: whether anchor and negative exclude one another.
    Returns: uint8. 8 excluded; 1 another sector; else by how much farther away the negative is than the positive: 7 (up
        to 0.5), 6 (1), 5 (2), 4 (3), 3 (4), 2 (more); 0 where it is not farther away and so no negative.
    """
    positive, negative = np.asarray(distance_anchor_positive), np.asarray(distance_anchor_negative)
    difference = negative - positive
    grade = _GRADES[np.searchsorted(_BOUNDS, difference)]
    grade = np.where(negative == UNRELATED_DISTANCE, np.uint8(1), grade)
    grade = np.where(excluded, np.uint8(8), grade)
    return np.where(difference > 0, grade, np.uint8(0))


def write_triplets(distances: pl.DataFrame, relations: pl.DataFrame, directory: Path) -> pl.DataFrame:
    """Writes all triplets of the taxonomy; gives the hardness table.

    Args:
        distances, relations: a row per unordered pair, as `tree.distances` and `tree.relations` give them.
        directory: gets one file; the last good one stays until the new one is complete.
    """
    groups = _groups(distances, relations)
    with replacing(directory / FILE) as temporary:
        try:
            # Statistics of nested strings take twenty times as long as all the rest.
            groups.write_parquet(temporary, compression="zstd", statistics=False, row_group_size=ROW_GROUP)
        except pl.exceptions.PolarsError as error:
            raise OSError(str(error)) from error
    return hardness_table(directory)


def _groups(distances: pl.DataFrame, relations: pl.DataFrame) -> pl.DataFrame:
    """The rows of the file."""
    pairs = _ordered_pairs(distances, relations)
    positives = (
        pairs.filter(pl.col("distance") < UNRELATED_DISTANCE)
        .group_by("anchor_code", positive_distance="distance", maintain_order=True)
        .agg(positive_codes="other_code")
    )
    negatives = pairs.group_by("anchor_code", "excluded", negative_distance="distance", maintain_order=True).agg(
        negative_codes="other_code"
    )
    # The lists are fetched last: joined with them, the groups that the filter drops would double the memory.
    groups = (
        positives.drop("positive_codes")
        .with_row_index("positive_row")
        .join(
            negatives.drop("negative_codes").with_row_index("negative_row"),
            on="anchor_code",
            maintain_order="left_right",
        )
        .filter(pl.col("negative_distance") > pl.col("positive_distance"))
    )
    grades = hardness(
        groups["positive_distance"].to_numpy(), groups["negative_distance"].to_numpy(), groups["excluded"].to_numpy()
    )
    return groups.select(
        "anchor_code",
        positives["positive_codes"].gather(groups["positive_row"]),
        negatives["negative_codes"].gather(groups["negative_row"]),
        pl.Series("hardness", grades),
        "excluded",
        unrelated=pl.col("negative_distance") == UNRELATED_DISTANCE,
        positive_distance="positive_distance",
        negative_distance="negative_distance",
        distance_diff=pl.col("negative_distance") - pl.col("positive_distance"),
    ).with_columns(triplets=pl.col("positive_codes").list.len() * pl.col("negative_codes").list.len())


def _ordered_pairs(distances: pl.DataFrame, relations: pl.DataFrame) -> pl.DataFrame:
    """anchor_code, other_code, distance, excluded: both directions of every pair, sorted."""
    codes = pl.concat([distances["code_i"], distances["code_j"]]).unique().sort()
    name = pl.Enum(codes)
    pairs = distances.select(pl.col("code_i", "code_j").cast(name), "distance", relations["excluded"])
    there = pairs.rename({"code_i": "anchor_code", "code_j": "other_code"})
    back = pairs.rename({"code_j": "anchor_code", "code_i": "other_code"}).select(there.columns)
    return pl.concat([there, back]).sort("anchor_code", "distance", "excluded", "other_code")


def connect(directory: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the view `triplets`, a row per triplet.

    Columns: anchor_code, positive_code, negative_code, hardness, excluded, unrelated, positive_distance,
    negative_distance, distance_diff. Conditions on all but the two codes that come from lists are met before any list
    is opened.

    Raises:
        NaicsError: there is no table in the directory.
    """
    file = directory / FILE
    if not file.is_file():
        raise NaicsError(f"{file} does not exist: materialize the asset `triplets` first.")
    connection = duckdb.connect()
    connection.execute(_VIEW.format(file=str(file).replace("'", "''")))
    return connection


def hardness_table(directory: Path) -> pl.DataFrame:
    """A row per hardness, hardest first: hardness, triplets."""
    return (
        pl.scan_parquet(directory / FILE)
        .group_by("hardness")
        .agg(pl.col("triplets").cast(pl.UInt64).sum())
        .sort("hardness", descending=True)
        .collect()
    )
