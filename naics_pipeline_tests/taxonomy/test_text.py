"""What becomes of the texts: cleaning, borrowed descriptions, exclusions, and held-out entries kept out."""

from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy import text
from naics_pipeline.taxonomy.census import Workbooks

from .workbooks import Source, small_source


def row(frame: pl.DataFrame, code: str) -> dict[str, object]:
    return frame.row(by_predicate=pl.col("code") == code, named=True)


def described(source: Source, directory: Path, entries: pl.DataFrame | None = None) -> pl.DataFrame:
    books = source.read(directory)
    return text.descriptions(books, text.index_entries(books, 0.0, 0.0) if entries is None else entries)


def entries_of(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(("code", "entry", "split"), pl.String), orient="row")


def bent(descriptions: dict[str, str] | None = None, cross: list[tuple[str, str]] | None = None) -> Source:
    source = small_source()
    source.descriptions.update(descriptions or {})
    source.cross_references += cross or []
    return source


def test_a_description_is_cleaned(tmp_path: Path) -> None:
    frame = described(small_source(), tmp_path)
    soy = row(frame, "111110")
    assert soy["title"] == "Soybean Farming"
    assert soy["description"] == "This industry comprises farms. They grow (e.g., 1.5 ha of) soybeans."
    assert row(frame, "11")["description"] == "Farms."
    assert row(frame, "31")["title"] == "Manufacturing"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r\n\n", "\r"])
def test_line_ends_are_alike(newline: str, tmp_path: Path) -> None:
    cell = newline.join(["First  part.", "Illustrative Examples:", "", "One", "Two", "Cross-References. Those--"])
    frame = described(bent({"332111": cell}), tmp_path)
    assert row(frame, "332111")["description"] == "First part."
    assert row(frame, "332111")["examples"] == ["One", "Two"]


def test_markup_goes_and_comparisons_stay(tmp_path: Path) -> None:
    frame = described(bent({"332": "<dl><dt style='x'>Forging<br/> of</dt></dl> parts < 2 kg and > 1 kg."}), tmp_path)
    assert row(frame, "332")["description"] == "Forging of parts < 2 kg and > 1 kg."


def test_a_missing_text_is_that_of_the_code_named_or_of_the_first_child(tmp_path: Path) -> None:
    frame = described(bent({"3321": "NULL", "111": ""}), tmp_path)
    assert row(frame, "11111")["description_from"] == "111110"
    assert str(row(frame, "11111")["description"]).startswith("This NAICS industry comprises farms.")
    # 1111 has no text, its first child 11111 that of 111110.
    assert row(frame, "1111")["description_from"] == "111110"
    assert str(row(frame, "1111")["description"]).startswith("This industry group comprises farms.")
    assert row(frame, "33211")["description"] == "This NAICS industry comprises forges."
    assert row(frame, "3321")["description"] == "This industry group comprises forges."
    assert row(frame, "111")["description_from"] == "111110"
    assert frame.filter(pl.col("code") == pl.col("description_from")).height == len(frame) - 5


@pytest.mark.parametrize(
    ("descriptions", "words"),
    [
        ({"332111": "NULL"}, r"33\d+ has no text and no code to take one from"),
        ({"332111": "See industry description for 33211."}, "has no text and no code to take one from"),
        ({"332111": "See industry description for 999999."}, "332111 refers to the text of 999999"),
    ],
)
def test_a_text_that_cannot_be_had_is_refused(descriptions: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        described(bent(descriptions), tmp_path)


def test_examples_are_the_entries_or_else_the_illustrative_list(tmp_path: Path) -> None:
    frame = described(small_source(), tmp_path / "with")
    assert row(frame, "311210")["examples"] == ["Flour milling", "Semolina milling"]
    assert row(frame, "111110")["examples"] == ["Soybean farming, field and seed production"]
    assert row(frame, "332111")["examples"] is None
    source = small_source()
    source.index = [("111110", "")]
    frame = described(source, tmp_path / "without")
    assert row(frame, "111110")["examples"] == ["Soybean farming", "Bean seed growing"]
    assert frame["examples"].count() == 1


def test_a_sector_says_what_it_excludes(tmp_path: Path) -> None:
    remark = "Hobby farms are generally excluded from this subsector."
    frame = described(
        bent({"111": f"Crops.\n\n{remark}\n\nThis subsector excludes mills.  They are in Sector 31-33."}), tmp_path
    )
    assert row(frame, "11")["excluded"] == "Excluded from this sector are mills in Sector 31-33."
    assert row(frame, "11")["excluded_codes"] == ["31"]
    assert row(frame, "111")["description"] == f"Crops. {remark}"
    assert row(frame, "111")["excluded_codes"] == ["31"]


@pytest.mark.parametrize(
    ("statement", "codes"),
    [
        ("Growing wheat--are classified in Industry 111120, Wheat Farming; and", ["111120"]),
        ("Growing wheat--are classified in 111120.", ["111120"]),
        ("Forging--are classified in U.S. Industry 332111 or in Industry Group 3112, Milling", ["332111", "3112"]),
        ("X--are classified in Industries 111120, 311210, and 332111.", ["111120", "311210", "332111"]),
        ("X are classified in Subsector 311, Food, based on 500 employees, 3.11 tons or $311.", ["311"]),
        ("X are classified in Sector 31-33, Manufacturing.", ["31"]),
        ("X are classified in Sector 32; or in Sectors 11, 33, and 44-45", ["31", "11"]),
        ("More than 11 of 31 parts--are classified elsewhere", []),
        ("X--are classified in Industry 999999, Unknown", []),
        ("X, 1,111 of them or 111-volt ones--are classified in Industry 111110, Soybean Farming", []),
        ("X--are classified in Industry 311210, Milling, and again Industry 311210.", ["311210"]),
    ],
)
def test_cited_codes(statement: str, codes: list[str], tmp_path: Path) -> None:
    source = small_source()
    source.cross_references = [("111110", statement)]
    frame = described(source, tmp_path)
    assert sorted(row(frame, "111110")["excluded_codes"]) == sorted(codes)  # type: ignore[call-overload]


def test_statements_are_joined_each_once(tmp_path: Path) -> None:
    again = [("111110", "Growing  wheat--are classified in Industry 111120, Wheat Farming."), ("111110", "Not beans.")]
    frame = described(bent(cross=again), tmp_path)
    expected = "Growing wheat--are classified in Industry 111120, Wheat Farming. Not beans."
    assert row(frame, "111110")["excluded"] == expected
    assert row(frame, "332")["excluded"] is None
    assert row(frame, "332")["excluded_codes"] == []


@pytest.mark.parametrize(
    ("held_out", "validation", "parts"),
    [
        (0.0, 0.0, "train train train train"),
        (0.2, 0.0, "train train train train"),
        (0.21, 0.0, "train train train held_out"),
        (0.2, 0.01, "train train train validation"),
        (0.2, 0.21, "train validation train validation"),
        (0.21, 0.21, "train validation validation held_out"),
        (0.42, 0.3, "train held_out held_out held_out"),
        (0.0, 0.77, "validation validation validation validation"),
    ],
)
def test_the_split_hangs_on_code_and_words_alone(
    held_out: float, validation: float, parts: str, tmp_path: Path
) -> None:
    # First eight hex digits of the SHA-256 of "code|entry", modulo 100, computed with sha256sum: 76, 40, 41, 20.
    source = small_source()
    frame = text.index_entries(source.read(tmp_path / "one"), held_out, validation)
    assert frame.columns == ["code", "entry", "split"]
    assert frame["code"].to_list() == ["111110", "111120", "311210", "311210"]
    assert frame["split"].to_list() == parts.split()


def books_of(index: list[tuple[str, str]]) -> Workbooks:
    entries = pl.DataFrame(index, schema={"code": pl.String, "entry": pl.String}, orient="row")
    nothing = pl.DataFrame()
    return Workbooks(codes=nothing, descriptions=nothing, index=entries, cross_references=nothing, origin="test")


_ENTRIES = st.lists(st.tuples(st.sampled_from(["111110", "311210"]), st.text("ab c", min_size=1)), min_size=1)


@settings(deadline=None)
@given(_ENTRIES, st.randoms(use_true_random=False), st.floats(0, 0.5), st.floats(0, 0.4))
def test_an_entry_keeps_its_part_when_others_come_go_or_change_places(
    index: list[tuple[str, str]], random: Random, held_out: float, validation: float
) -> None:
    whole = text.index_entries(books_of(index), held_out, validation)
    some = random.sample(index, random.randint(1, len(index)))
    part = text.index_entries(books_of(some), held_out, validation)
    assert part.join(whole, on=["code", "entry", "split"], how="anti").is_empty()
    without_validation = text.index_entries(books_of(index), held_out, 0.0)
    assert (whole["split"] == "held_out").equals(without_validation["split"] == "held_out")


@pytest.mark.parametrize("unseen", ["held_out", "validation"])
def test_an_unseen_entry_reaches_no_text(unseen: str, tmp_path: Path) -> None:
    books = bent(cross=[("311210", "Bean-seed growing--are classified in Industry 111110, Soybeans.")]).read(tmp_path)
    entries = entries_of(
        ("111120", "Bean seed, growing", unseen),
        ("111110", "Bean SEED growing", "train"),
        ("311210", "Flour milling", "train"),
        ("311210", "Growing wheat", unseen),
    )
    frame = text.descriptions(books, entries)
    # Neither as another code's training entry, nor from its illustrative list, nor as the activity of a statement.
    assert row(frame, "111110")["examples"] == ["Soybean farming"]
    assert row(frame, "311210")["examples"] == ["Flour milling"]
    assert row(frame, "111110")["excluded"] is None
    assert row(frame, "111110")["excluded_codes"] == ["111120"]
    assert row(frame, "311210")["excluded_codes"] == ["111110"]
    phrases = text.activity_phrases(books, frame, entries)
    assert phrases["phrase"].to_list() == ["Milling wheat into flour"]


NO_ENTRIES = entries_of()


def said_of(code: str, *descriptions: str, entries: pl.DataFrame = NO_ENTRIES) -> list[str]:
    frame = pl.DataFrame(
        {"code": [code], "description_from": [code], "description": [" ".join(descriptions)]},
    )
    return text.description_sentences(frame, entries)["sentence"].to_list()


@pytest.mark.parametrize(
    ("description", "sentences"),
    [
        (
            "This industry comprises establishments primarily engaged in growing soybeans and/or producing seeds.",
            ["growing soybeans and/or producing seeds"],
        ),
        (
            "This U.S. industry comprises establishments primarily engaged in one or more of the following: "
            "(1) distilling coal tars (e.g., 1.5 kg of them); (2) resawing the output of U.S. sawmills; and/or "
            "(3) planing purchased lumber. These establishments generally use planing machinery.",
            [
                "distilling coal tars (e.g., 1.5 kg of them)",
                "resawing the output of U.S. sawmills",
                "planing purchased lumber",
                "use planing machinery",
            ],
        ),
        (
            "This industry group includes establishments engaged in the merchant wholesale distribution of "
            "(1) farm supplies or (2) books.",
            ["the merchant wholesale distribution of farm supplies", "the merchant wholesale distribution of books"],
        ),
        ("This U.S. industry consists of (1) sports teams; and (2) owners of race horses.", ["owners of race horses"]),
        (
            "Establishments manufacturing garden hoses are included in this industry.",
            ["establishments manufacturing garden hoses"],
        ),
        (
            "This industry also includes establishments known as dinner theaters in St. Louis. In addition, they cook.",
            ["dinner theaters in St. Louis"],
        ),
        (
            "Farms grow wheat. Mills are classified in Sector 31-33, Manufacturing. They vary a lot.",
            ["Farms grow wheat"],
        ),
        ("This industry comprises establishments primarily engaged in growing wheat.", []),
    ],
)
def test_sentences_say_what_is_done_and_nothing_else(description: str, sentences: list[str]) -> None:
    assert said_of("111110", description) == sentences


def test_no_sentence_holds_an_unseen_entry_word_for_word() -> None:
    sentences = ["Farms grow soy-bean seed.", "Farms grow soybeans.", "Farms grow old soy."]
    for split in ("held_out", "validation"):
        kept = said_of(
            "111110", *sentences, entries=entries_of(("111110", "Soy bean seed", split), ("311210", "soy", split))
        )
        assert kept == ["Farms grow soybeans"]
    assert len(said_of("111110", *sentences, entries=entries_of(("111110", "Soy bean seed", "train")))) == 3


def test_a_sentence_of_several_codes_is_that_of_the_deepest_or_of_none() -> None:
    shared = {"1111": "Farms grow wheat. Farms grow rye.", "111120": "Farms grow wheat.", "111191": "Farms grow rye."}
    frame = pl.DataFrame({"code": list(shared), "description": list(shared.values())}).with_columns(
        description_from="code"
    )
    assert text.description_sentences(frame, NO_ENTRIES).rows() == [
        ("111120", "Farms grow wheat"),
        ("111191", "Farms grow rye"),
    ]
    both = frame.with_columns(description=pl.lit("Farms grow wheat."))
    assert text.description_sentences(both, NO_ENTRIES).is_empty()
    borrowed = frame.with_columns(description_from=pl.lit("111120"))
    assert text.description_sentences(borrowed, NO_ENTRIES)["code"].to_list() == ["111120"]


def test_repeated_entries_are_those_in_a_title_or_word_for_word_in_a_description() -> None:
    frame = pl.DataFrame({"title": ["Soy Farming"], "description": ["Farms that grow soy-beans, or rye."]})
    entries = entries_of(
        ("111110", "Soy farming", "held_out"),
        ("111110", "Soy beans", "validation"),
        ("111110", "Bean", "held_out"),
        ("111110", "Rye", "train"),
        ("111120", "soy beans or rye", "held_out"),
        ("111120", "Farm", "held_out"),
    )
    assert text.repeated_entries(frame, entries).to_list() == [True, True, False, False, True, False]


def test_activity_phrases(tmp_path: Path) -> None:
    source = small_source()
    source.cross_references += [
        ("311210", "Establishments primarily engaged in growing (i.e., sowing) wheat are classified in 111120."),
        ("332", "Milling, when it is done abroad, is classified in Industry 311210 or Subsector 311, Food."),
        ("332", "Anything classified in nothing--are classified elsewhere."),
        ("332", "Growing nothing."),
    ]
    books = source.read(tmp_path)
    entries = text.index_entries(books, 0.0, 0.0)
    phrases = text.activity_phrases(books, text.descriptions(books, entries), entries)
    assert phrases.rows() == [
        ("Growing wheat", "111120", "111110"),
        ("Milling wheat into flour", "311210", "111120"),
        ("growing (i.e., sowing) wheat", "111120", "311210"),
        ("Milling, when it is done abroad", "311210", "332"),
        ("Milling, when it is done abroad", "311", "332"),
    ]


@given(st.lists(st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=20), max_size=5))
def test_both_ways_to_normalise_agree(texts: list[str]) -> None:
    frame = pl.DataFrame({"entry": texts}, schema={"entry": pl.String})
    assert frame.select(text.normalised("entry")).to_series().to_list() == [text.normalise(each) for each in texts]


def test_normalise() -> None:
    assert text.normalise("  Soy-bean  FARMING (field), ") == "soy bean farming field"
