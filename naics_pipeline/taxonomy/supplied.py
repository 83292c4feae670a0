"""What users supply beside the workbooks: corrections of codes, a concordance."""

from pathlib import Path

import polars as pl

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.text import TRAIN, collapsed, normalised


def read_supplied(path: Path, *columns: str) -> pl.DataFrame:
    """The columns of a CSV file, as text without outer blanks.

    Raises:
        SourceError: it cannot be read or lacks a column.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a readable CSV file ({str(error).splitlines()[0]}).") from error
    for column in columns:
        if column not in frame.columns:
            raise SourceError(f"{path}: column '{column}' is missing; such a file has {' and '.join(columns)}.")
    return frame.select(pl.col(column).str.strip_chars() for column in columns)


def with_corrections(entries: pl.DataFrame, path: Path, codes: pl.Series) -> pl.DataFrame:
    """The index entries, and the texts of a file as further ones to train on; of a text twice the last code holds.

    Args:
        entries: as `index_entries` gives them.
        path: CSV file with the columns text and code.
        codes: those of the classification.
    Raises:
        SourceError: the file cannot be read, lacks a column, names no six-digit code, or gives away an entry that
            results are reported or settings are chosen on, in whatever case and punctuation; names file and row.
    """
    given = read_supplied(path, "text", "code")
    given = given.select(pl.col("code").fill_null(""), entry=collapsed("text")).with_row_index("row", 2)
    unseen = entries.filter(pl.col("split") != TRAIN).select(normalised("entry")).to_series()
    wrong = {
        "is no six-digit code of this classification": ~pl.col("code").is_in(codes.implode())
        | (pl.col("code").str.len_chars() != 6),
        "comes without a text": pl.col("entry").is_null() | (pl.col("entry") == ""),
        "is given for a text that is kept from training, to measure on": normalised("entry").is_in(unseen.implode()),
    }
    for problem, condition in wrong.items():
        if len(found := given.filter(condition.fill_null(True))):
            row, code, entry = found.row(0)
            raise SourceError(f"{path}, row {row}: '{code}' {problem} ('{entry}'). Take the row out, then run again.")
    latest = given.unique("entry", keep="last", maintain_order=True)
    known = entries.filter(pl.col("split") == TRAIN, pl.col("entry").is_in(latest["entry"].implode()))
    kept = entries.join(known, on=["code", "entry", "split"], how="anti", maintain_order="left")
    return pl.concat([kept, latest.select("code", "entry", split=pl.lit(TRAIN))])
