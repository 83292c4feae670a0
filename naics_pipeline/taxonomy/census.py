"""The four workbooks of a vintage, read as text and refused where they cannot be right.

What the texts mean is the business of `text.py`; here a row number is still known, so here is where errors are found.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import fastexcel
import polars as pl

from naics_pipeline.errors import SourceError
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import download as web
from naics_pipeline.taxonomy.tree import MERGED_SECTORS

logger = logging.getLogger(__name__)

SAMPLE = Path(__file__).parents[1] / "sample"
SAMPLE_VINTAGE = 2022
MERGED_RANGES = {"31-33": "31", "44-45": "44", "48-49": "48"}
HEADER_SEARCH_ROWS = 10
DIGITS_OF_ENTRIES = 6
"""Index entries belong to the most detailed codes: one under a shorter code would be a query without an answer."""
Getter = Callable[[str, Download, Path], Path]


@dataclass(frozen=True)
class Workbooks:
    """A source as it was read: known codes in their plain form ("31", not "31-33"), all other cells untouched.

    Attributes:
        codes: code, title; every code has a parent.
        descriptions: code, description; a row for every code of `codes`, the cell null where it is empty.
        index: code, entry.
        cross_references: code, statement.
        origin: where they came from, for messages.
        checksums: file name → SHA-256 of what was read.
    """

    codes: pl.DataFrame
    descriptions: pl.DataFrame
    index: pl.DataFrame
    cross_references: pl.DataFrame
    origin: str
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layout:
    """Where a table lies: {year} and {short} stand for the vintage; columns are our name to the header's."""

    workbook: str
    sheet: str
    text_file: str
    columns: dict[str, str]


LAYOUTS = {
    "codes": _Layout(
        "2-6 digit_{year}_Codes.xlsx",
        "tbl_{year}_title_description_coun",
        "codes.csv",
        {"code": "{year} NAICS US Code", "title": "{year} NAICS US Title"},
    ),
    "descriptions": _Layout(
        "{year}_NAICS_Descriptions.xlsx",
        "{year}_NAICS_Descriptions",
        "descriptions.csv",
        {"code": "Code", "description": "Description"},
    ),
    "index": _Layout(
        "{year}_NAICS_Index_File.xlsx",
        "{year}NAICS",
        "index_entries.csv",
        {"code": "NAICS{short}", "entry": "INDEX ITEM DESCRIPTION"},
    ),
    "cross_references": _Layout(
        "{year}_NAICS_Cross_References.xlsx",
        "{year}_NAICS_Cross_References",
        "cross_references.csv",
        {"code": "Code", "statement": "Cross-Reference"},
    ),
}


@dataclass(frozen=True)
class _Table:
    """A table with the row numbers of its file (`row`, from 1), and the words to point at a cell of it."""

    frame: pl.DataFrame
    path: Path
    sheet: str | None
    headers: dict[str, str]

    def place(self, column: str, row: int | None = None) -> str:
        sheet = f", sheet {self.sheet!r}" if self.sheet else ""
        return f"{self.path}{sheet}, column {self.headers[column]!r}" + (f", row {row}" if row else "")

    def refuse(self, bad: pl.Expr, column: str, message: str) -> None:
        """Raises SourceError for the first row where `bad` holds; the message may name columns in braces."""
        found = self.frame.filter(bad).head(1)
        if found.height:
            values = found.row(0, named=True)
            raise SourceError(f"{self.place(column, values['row'])}: {message.format(**values)}")


def read_source(source: str, vintage: int, download: Download, cache: Path) -> Workbooks:
    """The four tables of a source, checked.

    Args:
        source: "sample", "census", or a directory that holds the four workbooks under their published names.
        vintage: year of the classification.
        download: limits of the download, used by "census" only.
        cache: directory in which downloaded workbooks are kept.
    Raises:
        SourceError: names the file, sheet, column and row that cannot be used, and what to do.
    """
    paths = _paths(source, vintage, download, cache, web.fetch)
    tables = {name: _read(path, LAYOUTS[name], vintage) for name, path in paths.items()}
    _check_codes(tables["codes"])
    known = tables["codes"].frame["code"]
    _check_descriptions(tables["descriptions"], known)
    return Workbooks(
        codes=tables["codes"].frame.drop("row"),
        descriptions=tables["descriptions"].frame.drop("row"),
        index=_with_known_codes(tables["index"], known.filter(known.str.len_chars() == DIGITS_OF_ENTRIES), "entry"),
        cross_references=_with_known_codes(tables["cross_references"], known, "statement"),
        origin=f"{source} (NAICS {vintage})",
        checksums=_checksums(paths),
    )


def source_checksums(source: str, vintage: int, download: Download, cache: Path) -> dict[str, str]:
    """File name to SHA-256 of what the source holds now.

    For "census" the server is asked whether the cached workbooks are current; changed ones are downloaded, so that
    the next `read_source` reads them.
    """
    paths = _paths(source, vintage, download, cache, web.refresh)
    return _checksums(paths)


def _checksums(paths: dict[str, Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()}


def _paths(source: str, vintage: int, download: Download, cache: Path, get: Getter) -> dict[str, Path]:
    if source == "sample":
        if vintage != SAMPLE_VINTAGE:
            raise SourceError(
                f"source 'sample' holds NAICS {SAMPLE_VINTAGE} only: set vintage to {SAMPLE_VINTAGE}, or "
                "source to census or to a directory of workbooks."
            )
        paths = {name: SAMPLE / layout.text_file for name, layout in LAYOUTS.items()}
    else:
        names = {name: layout.workbook.format(year=vintage) for name, layout in LAYOUTS.items()}
        if source == "census":
            base = f"{download.base_url.rstrip('/')}/{vintage}NAICS"
            return {name: get(f"{base}/{quote(file)}", download, cache) for name, file in names.items()}
        paths = {name: Path(source).expanduser() / file for name, file in names.items()}
    _refuse_missing_files(list(paths.values()), source)
    return paths


def _refuse_missing_files(paths: list[Path], source: str) -> None:
    directory = paths[0].parent
    if not directory.is_dir():
        raise SourceError(
            f"source {source!r}: no such directory; source is sample, census, or a directory of workbooks."
        )
    for path in paths:
        if not path.is_file():
            found = ", ".join(sorted(file.name for file in directory.iterdir())[:20]) or "nothing"
            raise SourceError(
                f"{path}: no such file. The directory holds: {found}. Put the workbook there under its published name, "
                "or set vintage to the one that is there."
            )


def _read(path: Path, layout: _Layout, vintage: int) -> _Table:
    """The needed columns of a file under our names, all text, with plain codes; rows without any value are left out."""
    names = {"year": vintage, "short": vintage % 100}
    headers = {column: header.format(**names) for column, header in layout.columns.items()}
    sheet = layout.sheet.format(**names) if path.suffix == ".xlsx" else None
    cells = _workbook_cells(path, sheet) if sheet else _text_cells(path)
    header_row, positions = _find_header(cells, headers, f"{path}, sheet {sheet!r}" if sheet else str(path))
    frame = (
        cells.select(pl.nth(position).alias(column) for column, position in positions.items())
        .with_row_index("row", offset=1)
        .slice(header_row + 1)
        .filter(pl.any_horizontal(pl.col(*headers).str.strip_chars() != ""))
        .with_columns(pl.col("code").str.strip_chars().replace(MERGED_RANGES))
    )
    return _Table(frame, path, sheet, headers)


def _workbook_cells(path: Path, sheet: str) -> pl.DataFrame:
    """Every cell of a sheet as text, from its first row on."""
    again = "Get the workbook again from census.gov/naics."
    try:
        workbook = fastexcel.read_excel(path)
        if sheet not in workbook.sheet_names:
            raise SourceError(
                f"{path}: no sheet {sheet!r} but {', '.join(map(repr, workbook.sheet_names))}. Is this another "
                f"workbook under a wrong name, or another vintage? {again}"
            )
        return workbook.load_sheet(sheet, header_row=None, skip_rows=0, dtypes="string").to_polars()
    except (fastexcel.FastExcelError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(
            f"{path}, sheet {sheet!r}: not a readable workbook, maybe truncated ({reason}). {again}"
        ) from error


def _text_cells(path: Path) -> pl.DataFrame:
    """Every cell of a CSV file as text; a row is a record, which may span lines."""
    try:
        return pl.read_csv(path, has_header=False, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(
            f"{path}: not a readable CSV file ({error}). Restore it, e.g. by installing again."
        ) from error


def _find_header(cells: pl.DataFrame, headers: dict[str, str], file: str) -> tuple[int, dict[str, int]]:
    """Row and column positions of the headers, white space in them collapsed."""
    top = [[" ".join((cell or "").split()) for cell in row] for row in cells.head(HEADER_SEARCH_ROWS).rows()]
    for number, row in enumerate(top):
        if set(headers.values()) <= set(row):
            return number, {column: row.index(header) for column, header in headers.items()}
    first = next((row for row in top if any(row)), [])
    missing = [header for header in headers.values() if header not in first]
    raise SourceError(
        f"{file}: no column {', '.join(map(repr, missing))}; found "
        f"{', '.join(repr(cell) for cell in first if cell) or 'nothing'}. Name the columns as in the published file."
    )


def _check_codes(table: _Table) -> None:
    if table.frame.is_empty():
        raise SourceError(f"{table.place('code')}: no codes. Get the file again, or point source at another one.")
    code = pl.col("code")
    malformed = code.is_null() | ~code.str.contains(r"^[0-9]{2,6}$")
    sector = code.str.slice(0, 2).replace(MERGED_SECTORS)
    digits = code.str.len_chars()
    parent = pl.when(digits == 3).then(sector).otherwise(code.str.head(-1))
    known = table.frame["code"].implode()
    table.refuse(malformed, "code", "{code!r} is not a code of two to six digits; correct it or remove the row.")
    table.refuse(~code.is_first_distinct(), "code", "{code} occurs a second time; remove one of the rows.")
    table.refuse(
        (digits == 2) & (code != sector), "code", "{code} is part of a merged sector (31-33, 44-45, 48-49); use that."
    )
    table.refuse(
        (digits > 2) & ~parent.is_in(known), "code", "{code} has no parent: the code above it is missing; add its row."
    )
    if table.frame["code"].str.len_chars().is_unique().all():
        raise SourceError(
            f"{table.place('code')}: the codes are one line of descent, so that there is nothing to tell apart; "
            "add codes beside them."
        )
    table.refuse(
        pl.col("title").is_null() | (pl.col("title").str.strip_chars() == ""), "title", "{code} has no title; add it."
    )


def _check_descriptions(table: _Table, known: pl.Series) -> None:
    code = pl.col("code")
    table.refuse(
        code.is_null() | ~code.is_in(known.implode()),
        "code",
        "{code!r} is not among the codes; correct it, or get both files from one vintage.",
    )
    table.refuse(~code.is_first_distinct(), "code", "{code} occurs a second time; remove one of the rows.")
    absent = known.filter(~known.is_in(table.frame["code"].implode()))
    if len(absent):
        raise SourceError(
            f"{table.place('code')}: {len(absent)} codes have no row, first {absent[0]}; add them (NULL will do)."
        )


def _with_known_codes(table: _Table, known: pl.Series, column: str) -> pl.DataFrame:
    """The rows of known codes with a text; the log says how many others there were."""
    code = pl.col("code")
    usable = (code.is_in(known.implode()) & (pl.col(column).str.strip_chars() != "")).fill_null(False)
    others = table.frame.filter(~usable)
    if others.height:
        first = others.row(0, named=True)
        logger.log(
            logging.WARNING if others["code"].str.contains("[0-9]").any() else logging.INFO,
            "%s: %d rows left out, without a text or without a code that may have one, the first with %r",
            table.place("code", first["row"]),
            others.height,
            first["code"],
        )
    return table.frame.filter(usable).drop("row")
