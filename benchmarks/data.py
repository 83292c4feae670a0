"""The data assets at full size, on the workbooks in NAICS_CENSUS_DIR (or ../shared/census/2022), else on the sample."""

import os
import tempfile
from pathlib import Path

import polars as pl

from benchmarks.measure import Row, Work
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census, text, tree, triplets

WORKBOOKS = Path(os.environ.get("NAICS_CENSUS_DIR", Path(__file__).parents[2] / "shared" / "census" / "2022"))
NAIVE_ANCHORS = 20

ROWS = [
    Row("workbooks to descriptions", "to_descriptions"),
    Row("descriptions to relations and distances", "to_distances", "naive_distances"),
    Row("all triplets, written", "to_triplets", "naive_triplets"),
    Row("all triplets, read as rows and counted by hardness", "count_triplets"),
]


def texts() -> pl.DataFrame:
    source = str(WORKBOOKS) if WORKBOOKS.is_dir() else "sample"
    books = census.read_source(source, 2022, Download(), Path(tempfile.gettempdir()))
    return text.descriptions(books, text.index_entries(books, 0.2, 0.08))


def to_descriptions(directory: Path) -> Work:
    def work() -> None:
        texts().write_parquet(directory / "descriptions.parquet", compression="zstd")

    return work


def to_distances(directory: Path) -> Work:
    frame = texts()

    def work() -> None:
        tree.relations(frame).write_parquet(directory / "relations.parquet", compression="zstd")
        tree.distances(frame).write_parquet(directory / "distances.parquet", compression="zstd")

    return work


def naive_distances(directory: Path) -> Work:
    """Pair after pair, walking up from both codes: the way of the published programs."""
    frame = texts()
    codes = frame["code"].to_list()
    excluded = dict(frame.select("code", "excluded_codes").rows())

    def line(code: str) -> list[str]:
        above = tree.parent_of(code)
        return [code] if above is None else [code, *line(above)]

    def work() -> None:
        lines = {code: line(code) for code in codes}
        rows = []
        for i, first in enumerate(codes):
            for j, second in enumerate(codes[i + 1 :], start=i + 1):
                cited = first in excluded[second] or second in excluded[first]
                common = next((code for code in lines[first] if code in lines[second]), None)
                if common is None:
                    steps = len(lines[first]) + len(lines[second])
                    rows.append((i, j, first, second, tree.UNRELATED, "unrelated", cited, 10.0, steps))
                    continue
                s, t = sorted((lines[first].index(common), lines[second].index(common)))
                distance = s + t - 0.5 * (s == 0)
                rows.append((i, j, first, second, *tree.RELATIONS[s, t], cited, distance, s + t))
        columns = [*"ij", "code_i", "code_j", "relation_id", "relation", "excluded", "distance", "tree_distance"]
        pairs = pl.DataFrame(rows, schema=columns, orient="row")
        pairs.write_parquet(directory / "pairs.parquet", compression="zstd")

    return work


def to_triplets(directory: Path) -> Work:
    frame = texts()
    distances, relations = tree.distances(frame), tree.relations(frame)

    def work() -> None:
        triplets.write_triplets(distances, relations, directory)

    return work


def count_triplets(directory: Path) -> Work:
    to_triplets(directory)()

    def work() -> None:
        with triplets.connect(directory) as connection:
            connection.execute("SELECT hardness, count(*) FROM triplets GROUP BY hardness").fetchall()

    return work


def naive_triplets(directory: Path) -> tuple[Work, float]:
    """A row per triplet in one table, for evenly spaced anchors; all of them need more memory than the machine has."""
    frame = texts()
    step = max(1, frame.height // NAIVE_ANCHORS)
    anchors = frame["code"].gather_every(step)
    relations = tree.relations(frame)
    there = tree.distances(frame).select("code_i", "code_j", "distance", relations["excluded"])
    both = pl.concat([there, there.select(code_i="code_j", code_j="code_i", distance="distance", excluded="excluded")])
    pairs = both.filter(pl.col("code_i").is_in(anchors.implode()))
    positives = pairs.filter(pl.col("distance") < tree.UNRELATED_DISTANCE)

    def work() -> None:
        rows = positives.select("code_i", "distance", positive_code="code_j").join(
            pairs, on="code_i", suffix="_negative"
        )
        rows = rows.filter(pl.col("distance_negative") > pl.col("distance"))
        rows.with_columns(
            distance_diff=pl.col("distance_negative") - pl.col("distance"),
            unrelated=pl.col("distance_negative") == tree.UNRELATED_DISTANCE,
            hardness=pl.Series(triplets.hardness(rows["distance"], rows["distance_negative"], rows["excluded"])),
        ).write_parquet(directory / "flat.parquet", compression="zstd")

    return work, len(anchors) / frame.height
