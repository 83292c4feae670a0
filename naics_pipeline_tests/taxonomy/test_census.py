"""Reading a source: what comes out of good workbooks, and what is said of bad ones."""

import logging
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from naics_pipeline.errors import SourceError
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census, text, tree, triplets

from .workbooks import Source, small_source, write_workbook

CODES = "2-6 digit_2022_Codes.xlsx"
DESCRIPTIONS = "2022_NAICS_Descriptions.xlsx"
CODES_SHEET = "tbl_2022_title_description_coun"


def read(directory: Path | str, vintage: int = 2022) -> census.Workbooks:
    return census.read_source(str(directory), vintage, Download(), Path("unused"))


def refusal(directory: Path, *words: str) -> None:
    """Reading is refused, in a message that names the file and all these words, in this order."""
    with pytest.raises(SourceError) as caught:
        read(directory)
    assert re.search(".*".join(map(re.escape, (str(directory), *words))), str(caught.value)), caught.value


def test_what_workbooks_hold(tmp_path: Path) -> None:
    books = small_source().read(tmp_path)
    assert {name: getattr(books, name).columns for name in ("codes", "descriptions", "index", "cross_references")} == {
        "codes": ["code", "title"],
        "descriptions": ["code", "description"],
        "index": ["code", "entry"],
        "cross_references": ["code", "statement"],
    }
    assert books.codes.height == books.descriptions.height == 16
    assert ("31", "Manufacturing") in books.codes.rows()
    assert ("111110", "Soybean Farming ") in books.codes.rows()
    assert "\n" in books.descriptions.filter(code="111110")["description"].item()
    assert str(tmp_path) in books.origin


def test_rows_without_a_known_code_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = small_source()
    source.index += [("999999", "Unknown"), ("11111", "Under a code that is divided further")]
    caplog.set_level(logging.INFO)
    assert source.read(tmp_path).index["code"].to_list() == ["111110", "111120", "311210", "311210"]
    assert "2022_NAICS_Index_File.xlsx" in caplog.text
    assert "row 6: 3 rows left out, without a text or without a code" in caplog.text
    assert "WARNING" in caplog.text


def test_codes_in_numeric_cells_are_text_without_decimals(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    rows = [
        (number, int(code) if code.isdigit() else code, title)
        for number, (code, title) in enumerate(small_source().codes.items())
    ]
    write_workbook(directory / CODES, CODES_SHEET, [("Seq. No.", "2022 NAICS US   Code", "2022 NAICS US Title"), *rows])
    assert read(directory).codes["code"].to_list()[4:8] == ["111110", "11112", "111120", "31"]


def test_white_space_in_headers_and_rows_above_them_do_not_matter(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    rows = [(None, code, title) for code, title in small_source().codes.items()]
    header = ("Seq. No.", "2022  NAICS US Code ", "2022 NAICS US\nTitle")
    write_workbook(directory / CODES, CODES_SHEET, [("A note", None, None), (None, None, None), header, *rows])
    assert read(directory).codes.height == 16


def test_the_other_vintage_has_its_year_everywhere(tmp_path: Path) -> None:
    source = small_source()
    source.vintage = 2017
    directory = source.write(tmp_path)
    assert read(directory, 2017).codes.height == 16
    refusal(directory, CODES, "no such file", "2017_NAICS_Descriptions.xlsx", "vintage")


def test_the_sample_reads_as_the_workbooks_do(sample_books: census.Workbooks) -> None:
    assert "31" in sample_books.codes["code"].to_list()
    assert sample_books.descriptions["description"].str.contains("\n").any()
    with pytest.raises(SourceError, match="'sample' holds NAICS 2022 only"):
        read("sample", 2017)


def test_real_workbooks(real_books: census.Workbooks) -> None:
    assert real_books.codes.height == real_books.descriptions.height == 2_125
    assert real_books.index.height == 20_373
    assert real_books.cross_references.height == 4_602
    assert real_books.codes["title"].str.contains(r"\s$").sum() == 1_111


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such directory; source is sample, census, or a directory"):
        read(tmp_path / "nowhere")


def test_a_missing_workbook(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    (directory / DESCRIPTIONS).rename(directory / "descriptions.xlsx")
    refusal(directory, DESCRIPTIONS, "no such file", CODES, "descriptions.xlsx", "published name")


def test_a_workbook_under_another_ones_name(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    shutil.copy(directory / CODES, directory / DESCRIPTIONS)
    refusal(directory, DESCRIPTIONS, "no sheet '2022_NAICS_Descriptions' but 'tbl_2022_title_description_coun'")


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"PK\x03\x04 and nothing else"])
def test_a_file_that_is_no_workbook(content: bytes, tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    (directory / DESCRIPTIONS).write_bytes(content)
    refusal(directory, DESCRIPTIONS, "not a readable workbook", "Get the workbook again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_workbook(share: float, census_2022: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(census_2022, tmp_path / "2022"))
    (directory / DESCRIPTIONS).chmod(0o644)
    content = (directory / DESCRIPTIONS).read_bytes()
    (directory / DESCRIPTIONS).write_bytes(content[: int(len(content) * share)])
    refusal(directory, DESCRIPTIONS, "not a readable workbook, maybe truncated", "Get the workbook again")


def test_a_missing_column(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    header = ("Seq. No.", "2022 NAICS US Code", "Name")
    write_workbook(directory / CODES, CODES_SHEET, [header, (1, "11", "Farming")])
    refusal(
        directory, CODES, f"sheet '{CODES_SHEET}'", "no column '2022 NAICS US Title'", "found", "'Seq. No.'", "'Name'"
    )


@pytest.mark.parametrize("rows", [[], [("Seq. No.", "2022 NAICS US Code", "2022 NAICS US Title")]])
def test_an_empty_workbook(rows: list[tuple[str, ...]], tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    write_workbook(directory / CODES, CODES_SHEET, rows)
    refusal(directory, CODES, CODES_SHEET, "found nothing" if not rows else "no codes")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([("111110", "Again")], ["column '2022 NAICS US Code', row 19", "111110 occurs a second time"]),
        ([("33", "Again")], ["row 19", "33 is part of a merged sector"]),
        ([("212", "Mining")], ["row 19", "212 has no parent"]),
        ([("31130", "Sugar")], ["row 19", "31130 has no parent"]),
        ([("1113x", "Fruit")], ["row 19", "'1113x' is not a code"]),
        ([("1112134", "Long")], ["row 19", "'1112134' is not a code"]),
        ([(None, "No code")], ["row 19", "None is not a code"]),
        ([("112", " ")], ["column '2022 NAICS US Title', row 19", "112 has no title"]),
    ],
)
def test_bad_codes_are_found_where_they_stand(extra: list[tuple[str, str]], words: list[str], tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    rows = [(None, code, title) for code, title in [*small_source().codes.items(), *extra]]
    header = ("Seq. No.", "2022 NAICS US   Code", "2022 NAICS US Title")
    # Empty rows are left out but counted.
    write_workbook(directory / CODES, CODES_SHEET, [header, (None, None, None), *rows])
    refusal(directory, CODES, f"sheet '{CODES_SHEET}'", *words)


def test_a_parent_that_is_missing(tmp_path: Path) -> None:
    source = small_source()
    del source.codes["1111"]
    refusal(source.write(tmp_path), CODES, "row 5", "11111 has no parent")


def test_codes_that_leave_nothing_to_tell_apart(tmp_path: Path) -> None:
    line = {code: title for code, title in small_source().codes.items() if "111110".startswith(code)}
    assert len(line) == 5
    refusal(Source(codes=line).write(tmp_path), CODES, "one line of descent", "add codes")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("11", "", "Farms."), ("11", "", "Farms again.")], ["column 'Code', row 3", "11 occurs a second time"]),
        ([("11", "", "Farms."), ("99", "", "Unknown.")], ["column 'Code', row 3", "'99' is not among the codes"]),
        ([("11", "", "Farms.")], ["column 'Code'", "15 codes have no row, first 111;"]),
    ],
)
def test_descriptions_that_do_not_fit_the_codes(
    rows: list[tuple[str, str, str]], words: list[str], tmp_path: Path
) -> None:
    directory = small_source().write(tmp_path)
    write_workbook(directory / DESCRIPTIONS, "2022_NAICS_Descriptions", [("Code", "Title", "Description"), *rows])
    refusal(directory, DESCRIPTIONS, "sheet '2022_NAICS_Descriptions'", *words)


def test_a_taxonomy_of_one_sector_without_entries_goes_all_the_way(tmp_path: Path) -> None:
    codes = {code: title for code, title in small_source().codes.items() if code.startswith("11")}
    books = Source(codes=codes).read(tmp_path / "source")
    assert books.index.is_empty()
    assert books.cross_references.is_empty()
    entries = text.index_entries(books, 0.2, 0.08)
    assert entries.schema == {"code": pl.String, "entry": pl.String, "split": pl.String}
    frame = text.descriptions(books, entries)
    assert frame.height == 7
    assert frame["examples"].null_count() == frame["excluded"].null_count() == 7
    assert frame["excluded_codes"].list.len().sum() == 0
    assert text.activity_phrases(books, frame, entries).is_empty()
    table = triplets.write_triplets(tree.distances(frame), tree.relations(frame), tmp_path / "triplets")
    assert not {1, 8} & set(table["hardness"])
    assert table["triplets"].sum() > 0


def test_checksums_change_with_the_files(tmp_path: Path) -> None:
    directory = small_source().write(tmp_path)
    before = census.source_checksums(str(directory), 2022, Download(), tmp_path)
    assert before == census.source_checksums(str(directory), 2022, Download(), tmp_path)
    assert sorted(before) == sorted(path.name for path in directory.iterdir())
    assert all(len(checksum) == 64 for checksum in before.values())
    with (directory / CODES).open("ab") as file:
        file.write(b" ")
    after = census.source_checksums(str(directory), 2022, Download(), tmp_path)
    assert [name for name in before if before[name] != after[name]] == [CODES]
    assert set(census.source_checksums("sample", 2022, Download(), tmp_path)) == {
        "codes.csv",
        "descriptions.csv",
        "index_entries.csv",
        "cross_references.csv",
    }
