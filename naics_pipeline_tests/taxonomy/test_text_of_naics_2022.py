"""The texts of the real workbooks."""

import re
import time

import polars as pl

from naics_pipeline.taxonomy import text
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.taxonomy.tree import Tree


def test_sentences_of_naics_2022(real_descriptions: pl.DataFrame, real_entries: pl.DataFrame) -> None:
    started = time.perf_counter()
    frame = text.description_sentences(real_descriptions, real_entries)
    assert time.perf_counter() - started < 2
    assert frame.columns == ["code", "sentence"]
    assert 2_000 < frame.height < 2_300
    assert frame["code"].n_unique() > 1_300
    assert frame["sentence"].is_unique().all()
    assert ("111110", "growing soybeans and/or producing soybean seeds") in frame.rows()
    said = frame["sentence"]
    leftovers = r"classified|[Cc]ross-[Rr]eferences|\(\d\)|^This |primarily engaged in$|the following$|\bT$"
    fragments = r"[;,:(]$|^[^(]*\)|\([^)]*$"
    assert said.filter(said.str.contains(f"{leftovers}|{fragments}")).to_list() == []
    assert said.str.split(" ").list.len().min() >= 3  # type: ignore[operator]
    assert text.unseen_within(frame, "sentence", real_entries).is_empty()


def test_entries_that_naics_2022_repeats(real_descriptions: pl.DataFrame, real_entries: pl.DataFrame) -> None:
    titles = real_descriptions.select(key=text.normalised("title"))
    described = text.unseen_within(real_descriptions, "description", real_entries)
    for split, counts in (("held_out", (38, 59, 78)), ("validation", (13, 27, 34))):
        part = real_entries.filter(split=split).with_columns(key=text.normalised("entry"))
        found = [part.join(where, on="key", how="semi").height for where in (titles, described)]
        assert (*found, text.repeated_entries(real_descriptions, part).sum()) == counts
    assert not text.repeated_entries(real_descriptions, real_entries.filter(split="train")).any()


def test_descriptions_of_naics_2022(real_descriptions: pl.DataFrame) -> None:
    frame = real_descriptions
    assert frame.schema == {
        "index": pl.UInt16,
        "level": pl.UInt8,
        "code": pl.String,
        "title": pl.String,
        "description": pl.String,
        "description_from": pl.String,
        "examples": pl.List(pl.String),
        "excluded": pl.String,
        "excluded_codes": pl.List(pl.String),
    }
    assert frame["index"].to_list() == list(range(2_125))
    assert frame["code"].to_list() == sorted(frame["code"])
    assert dict(frame["level"].value_counts().rows()) == {2: 20, 3: 96, 4: 308, 5: 689, 6: 1_012}
    required = frame.select("title", "description", "description_from", "excluded_codes")
    assert required.null_count().row(0) == (0, 0, 0, 0)
    assert frame["title"].str.contains(r"^\S.*[^T\s]$|GT$|^T").all()
    for column in ("title", "description", "examples", "excluded"):
        texts = frame.select(column).explode(column) if column == "examples" else frame
        assert not texts[column].str.contains(r"\s\s|^\s|\s$|[\r\n]|</?[a-z]").any()
    leftovers = "NULL|The Sector as a Whole|Cross-References|Illustrative Examples|See industry description"
    assert not frame["description"].str.contains(leftovers).any()
    assert frame["description"].str.len_chars().min() > 30  # type: ignore[operator]


def test_borrowed_descriptions_of_naics_2022(real_descriptions: pl.DataFrame) -> None:
    borrowed = real_descriptions.filter(pl.col("code") != pl.col("description_from"))
    assert dict(borrowed["level"].value_counts().rows()) == {4: 154, 5: 522}
    assert borrowed.filter(pl.col("level") == 5)["description"].str.contains("This NAICS industry ").sum() > 500
    assert borrowed.filter(pl.col("level") == 4)["description"].str.contains("This industry group ").sum() > 145
    soybeans = real_descriptions.row(by_predicate=pl.col("code") == "11111", named=True)
    assert soybeans["description_from"] == "111110"


def test_exclusions_of_naics_2022(real_descriptions: pl.DataFrame) -> None:
    shallow = real_descriptions.filter(pl.col("level") <= 3)
    assert shallow["excluded"].count() == 22
    cited = real_descriptions.select("code", "excluded_codes").explode("excluded_codes").drop_nulls()
    assert cited.height == 4_587
    assert cited.unique().height == 4_587
    assert cited.filter(pl.col("code") == pl.col("excluded_codes")).is_empty()
    assert cited["excluded_codes"].is_in(real_descriptions["code"].implode()).all()


def test_examples_of_naics_2022(
    real_books: Workbooks, real_entries: pl.DataFrame, real_descriptions: pl.DataFrame
) -> None:
    assert real_entries.height == 20_373
    assert real_entries["code"].n_unique() == 1_010
    assert dict(real_entries["split"].value_counts().rows()) == {
        "train": 14_663,
        "validation": 1_611,
        "held_out": 4_099,
    }
    paragraphs = real_books.descriptions.filter(pl.col("description").str.contains("Illustrative Examples:"))
    assert paragraphs.height == 381
    with_examples = text.descriptions(real_books, text.index_entries(real_books, 0.0, 0.0)).drop_nulls("examples")
    assert set(with_examples["code"]) == set(real_entries["code"]) | set(paragraphs["code"])
    soybeans = real_descriptions.row(by_predicate=pl.col("code") == "111110", named=True)
    assert soybeans["examples"] == ["Soybean farming, field and seed production"]


def test_every_training_entry_of_naics_2022_is_an_example_in_file_order(
    real_entries: pl.DataFrame, real_descriptions: pl.DataFrame
) -> None:
    examples = real_descriptions.select("code", entry="examples").explode("entry").drop_nulls()
    training = real_entries.filter(split="train")
    listed = examples.filter(~pl.col("code").is_in(training["code"].implode()))
    assert examples.filter(pl.col("code").is_in(training["code"].implode())).equals(
        training.select("code", "entry").sort("code", maintain_order=True)
    )
    assert listed.height > 100
    assert listed["entry"].str.len_chars().max() < 200  # type: ignore[operator]


def test_no_unseen_entry_is_in_a_text_of_naics_2022(
    real_books: Workbooks, real_entries: pl.DataFrame, real_descriptions: pl.DataFrame
) -> None:
    unseen = {text.normalise(entry) for entry in real_entries.filter(pl.col("split") != "train")["entry"]}
    assert len(unseen) == 5_710
    items = real_descriptions["examples"].explode().drop_nulls()
    assert len(items) > 14_663
    assert not unseen & {text.normalise(item) for item in items}
    statements = [each for cell in real_descriptions["excluded"].drop_nulls() for each in re.split(r"(?<=\.) ", cell)]
    activities = {text.normalise(re.split(r"--are classified| are classified", each)[0]) for each in statements}
    assert not unseen & activities
    phrases = text.activity_phrases(real_books, real_descriptions, real_entries)
    assert not unseen & {text.normalise(phrase) for phrase in phrases["phrase"]}


def test_excluded_phrases_of_naics_2022_are_found_again(
    real_books: Workbooks, real_entries: pl.DataFrame, real_descriptions: pl.DataFrame
) -> None:
    found = text.excluded_phrases(real_descriptions)
    known = text.activity_phrases(real_books, real_descriptions, real_entries).select("phrase", code="under").unique()
    assert known.join(found, on=["code", "phrase"], how="semi").height > 0.99 * known.height


def test_activity_phrases_of_naics_2022(
    real_books: Workbooks, real_entries: pl.DataFrame, real_descriptions: pl.DataFrame, real_tree: Tree
) -> None:
    phrases = text.activity_phrases(real_books, real_descriptions, real_entries)
    assert phrases.columns == ["phrase", "code", "under"]
    assert ("Growing soybeans", "111110", "111120") in phrases.rows()
    assert 4_400 < phrases.height < 4_600
    assert len(real_tree.position(phrases["code"])) == len(real_tree.position(phrases["under"])) == phrases.height
    assert not phrases["phrase"].str.contains("classified").any()
