"""The bundled sample: large and messy enough to stand in for the workbooks, and written in our own words."""

import csv
import re
from collections import Counter

import polars as pl
import pytest

from naics_pipeline.taxonomy import text
from naics_pipeline.taxonomy.census import SAMPLE, Workbooks
from naics_pipeline.taxonomy.tree import Tree, sector_of

Row = dict[str, str]


def _rows(name: str) -> list[Row]:
    with (SAMPLE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def raw_descriptions() -> dict[str, str]:
    """Code, as it is written in the file, to cell, line ends as they are."""
    return {row["Code"]: row["Description"] for row in _rows("descriptions.csv")}


def _sentences(cell: str) -> set[str]:
    parts = (text.normalise(part) for part in re.split(r"(?<=[.;:])\s+|[\r\n]+", cell))
    return {part for part in parts if len(part.split()) > 4}


def test_headers_are_those_of_the_workbooks() -> None:
    headers = {path.name: path.read_text(encoding="utf-8").splitlines()[0] for path in SAMPLE.glob("*.csv")}
    assert headers == {
        "codes.csv": "Seq. No.,2022 NAICS US   Code,2022 NAICS US Title",
        "descriptions.csv": "Code,Title,Description",
        "index_entries.csv": "NAICS22,INDEX ITEM DESCRIPTION",
        "cross_references.csv": "Code,Cross-Reference",
    }


def test_it_is_large_enough(sample_books: Workbooks) -> None:
    codes = sample_books.codes["code"].to_list()
    assert len(codes) >= 300
    assert len({sector_of(code) for code in codes}) >= 6
    assert sample_books.index.height >= 1200
    assert sample_books.cross_references.height >= 300


def test_every_branch_goes_down_to_six_digits(sample_tree: Tree) -> None:
    parents = set(sample_tree.parent.tolist())
    dead_ends = [code for i, code in enumerate(sample_tree.codes) if i not in parents and len(code) < 6]
    assert dead_ends == []


def test_the_tree_has_only_children_and_large_families(sample_tree: Tree) -> None:
    families = Counter(Counter(parent for parent in sample_tree.parent.tolist() if parent >= 0).values())
    assert families[1] >= 20
    assert max(families) >= 6


def test_merged_sectors_are_given_as_ranges() -> None:
    codes = {row["2022 NAICS US   Code"] for row in _rows("codes.csv")}
    assert {"31-33", "44-45"} <= codes
    assert any(code.startswith("32") for code in codes)


def test_descriptions_have_the_mess_of_the_real_ones(raw_descriptions: dict[str, str]) -> None:
    cells = list(raw_descriptions.values())
    with_crlf = [cell for cell in cells if "\r\n" in cell]
    with_lf = [cell for cell in cells if re.search(r"(?<!\r)\n", cell)]
    assert min(len(with_crlf), len(with_lf)) >= 40
    assert any(cell in with_lf for cell in with_crlf)
    assert sum(cell == "NULL" for cell in cells) >= 10
    assert sum(cell.startswith("See industry description for ") for cell in cells) >= 50
    assert sum("Illustrative Examples:" in cell for cell in cells) >= 20
    assert sum("Cross-References." in cell for cell in cells) >= 100
    assert any(re.search(r"\d\.\d", cell) for cell in cells)
    assert any("e.g.," in cell for cell in cells)


def test_sectors_have_their_heading_and_their_exclusions(raw_descriptions: dict[str, str]) -> None:
    sectors = [cell for code, cell in raw_descriptions.items() if len(code) == 2 or "-" in code]
    assert all(cell.startswith("The Sector as a Whole") for cell in sectors)
    assert all("Excluded from this sector" in cell for cell in sectors)
    subsectors = [cell for code, cell in raw_descriptions.items() if len(code) == 3]
    assert sum("Excluded from this subsector" in cell for cell in subsectors) >= 6


def test_every_exclusion_paragraph_names_a_code_of_the_sample(
    raw_descriptions: dict[str, str], sample_descriptions: pl.DataFrame
) -> None:
    with_paragraph = {code.split("-")[0] for code, cell in raw_descriptions.items() if "Excluded from this s" in cell}
    known = sample_descriptions.filter(pl.col("level") <= 3, pl.col("excluded_codes").list.len() > 0)["code"]
    assert with_paragraph == set(known)


def test_titles_and_index_have_the_mess_of_the_real_ones() -> None:
    titles = [row["2022 NAICS US Title"] for row in _rows("codes.csv")]
    assert sum(title != title.rstrip() for title in titles) >= 20
    assert any(row["Title"].endswith("T") for row in _rows("descriptions.csv"))
    unusable = [row for row in _rows("index_entries.csv") if not re.fullmatch(r"\d{6}", row["NAICS22"])]
    assert len(unusable) >= 3


def test_six_digit_codes_without_entries_show_their_list_or_nothing(
    sample_books: Workbooks, sample_descriptions: pl.DataFrame
) -> None:
    bare = sample_descriptions.filter(pl.col("level") == 6, ~pl.col("code").is_in(sample_books.index["code"].implode()))
    assert bare["examples"].drop_nulls().len() >= 2
    assert bare["examples"].null_count() >= 1


def test_cleaning_leaves_no_mark_of_the_layout(sample_descriptions: pl.DataFrame) -> None:
    columns = [pl.col("title"), pl.col("description"), pl.col("examples").explode(), pl.col("excluded")]
    texts = pl.concat([sample_descriptions.select(each).to_series().alias("text") for each in columns]).drop_nulls()
    marks = r"NULL|Illustrative Examples|Cross-References|Sector as a Whole|See industry description|[\r\n]|  "
    assert texts.filter(texts.str.contains(marks)).to_list() == []
    assert sample_descriptions["title"].str.ends_with("T").any() is False
    assert sample_descriptions["description"].null_count() == 0


def test_descriptions_are_informative(sample_descriptions: pl.DataFrame) -> None:
    own = sample_descriptions.filter(pl.col("code") == pl.col("description_from"), pl.col("level") >= 4)
    words = own["description"].str.split(" ").list.len()
    assert own.filter((words < 25) | (words > 70))["code"].to_list() == []
    assert own["description"].is_unique().all()


def test_statements_cite_the_codes_of_the_sample_and_siblings(
    sample_books: Workbooks, sample_descriptions: pl.DataFrame, sample_entries: pl.DataFrame, sample_tree: Tree
) -> None:
    phrases = text.activity_phrases(sample_books, sample_descriptions, sample_entries)
    assert phrases.height >= 0.6 * sample_books.cross_references.height
    at, cited = sample_tree.position(phrases["under"]), sample_tree.position(phrases["code"])
    assert (sample_tree.distance()[at, cited] == 2.0).sum() >= 50


def test_a_fifth_of_the_entries_is_held_out_of_most_codes(sample_entries: pl.DataFrame) -> None:
    held_out = sample_entries.filter(pl.col("split") == "held_out")
    assert held_out.height >= 240
    assert held_out["code"].n_unique() >= 120
    assert sample_entries.filter(pl.col("split") == "validation").height >= 100
    assert sample_entries.filter(text.normalised("entry").is_duplicated())["entry"].to_list() == []


def test_its_descriptions_give_sentences(sample_descriptions: pl.DataFrame, sample_entries: pl.DataFrame) -> None:
    sentences = text.description_sentences(sample_descriptions, sample_entries)
    assert sentences.height >= 400
    assert sentences["code"].n_unique() >= 250
    assert text.unseen_within(sentences, "sentence", sample_entries).is_empty()


def test_codes_and_titles_are_real(sample_books: Workbooks, real_books: Workbooks) -> None:
    assert sample_books.codes.join(real_books.codes, on=["code", "title"], how="anti")["code"].to_list() == []


def test_no_description_or_statement_is_a_published_one(
    sample_books: Workbooks, real_books: Workbooks, raw_descriptions: dict[str, str]
) -> None:
    published = {part for cell in real_books.descriptions["description"].drop_nulls() for part in _sentences(cell)}
    ours = {part for cell in raw_descriptions.values() for part in _sentences(cell)}
    formulas = ("the sector as a whole", "see industry description for", "cross references")
    assert {part for part in ours & published if not part.startswith(formulas)} == set()
    statement = text.normalised("statement")
    same = sample_books.cross_references.join(real_books.cross_references, on=statement, how="semi")
    assert same["statement"].to_list() == []


def test_index_entries_coincide_with_published_ones_by_accident_only(
    sample_books: Workbooks, real_books: Workbooks
) -> None:
    same = sample_books.index.join(real_books.index, on=text.normalised("entry"), how="semi")
    assert same.height < 0.03 * sample_books.index.height
