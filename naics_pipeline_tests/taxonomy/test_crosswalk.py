"""What became of each code: kept, renamed, split, merged, told by index entries, else by words."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from naics_pipeline import cli
from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.taxonomy.crosswalk import agreement, crosswalk, read_truth

from .workbooks import Source, small_source


def sources() -> tuple[Source, Source]:
    """Soybeans keep everything; wheat takes over rice; milling is split in two; iron forging has another title."""
    old, new = small_source(), small_source()
    old.vintage = 2017
    old.codes |= {"11116": "Rice Farming", "111160": "Rice Farming"}
    old.index += [("111160", "Rice farming, paddy"), ("111160", "Wild rice farming")]
    new.index += [("111120", "Rice farming, paddy"), ("111120", "Wild rice farming")]
    old.index += [("332111", "Anvils, forged"), ("332111", "Iron forging")]
    new.index += [("332111", "Anvils, forged"), ("332111", "Iron forging")]
    old.index += [("311210", "Malt houses"), ("311210", "Malt manufacturing")]
    new.codes |= {"31122": "Malt Manufacturing", "311220": "Malt Manufacturing", "332111": "Hammer Works"}
    new.index += [("311220", "Malt houses"), ("311220", "Malt manufacturing")]
    return old, new


@pytest.fixture
def found(tmp_path: Path) -> pl.DataFrame:
    old, new = sources()
    return crosswalk(old.read(tmp_path), new.read(tmp_path))


def of(found: pl.DataFrame, code: str) -> list[tuple[str, str]]:
    return found.filter(pl.col("old_code") == code).select("new_code", "kind").rows()


def test_each_change_is_told_by_its_name(found: pl.DataFrame) -> None:
    assert of(found, "111110") == [("111110", "identical")]
    assert of(found, "111160")[0] == ("111120", "merged")
    assert ("111120", "merged") in of(found, "111120")
    assert set(of(found, "311210")) == {("311210", "split"), ("311220", "split")}
    assert of(found, "332111") == [("332111", "renamed")]


def test_every_old_code_has_shares_that_sum_to_one_at_most_and_come_largest_first(found: pl.DataFrame) -> None:
    old, _ = sources()
    assert set(found["old_code"]) == {code[:2] if "-" in code else code for code in old.codes}
    by_code = found.group_by("old_code", maintain_order=True).agg("share", "confidence")
    for shares, confidences in by_code.select("share", "confidence").iter_rows():
        assert sum(shares) <= 1 + 1e-9
        assert shares == sorted(shares, reverse=True)
        assert all(0 < confidence < 1 for confidence in confidences)


def test_the_same_vintage_is_identical_throughout(tmp_path: Path) -> None:
    books = small_source().read(tmp_path)
    found = crosswalk(books, books)
    assert (found["old_code"] == found["new_code"]).all()
    assert set(found["kind"]) == {"identical"}


def test_more_entries_make_more_sure(found: pl.DataFrame) -> None:
    row = {(r["old_code"], r["new_code"]): r for r in found.iter_rows(named=True)}
    assert row["311210", "311220"]["entries"] == 2
    assert row["311210", "311220"]["entries_found"] == 4
    assert row["111160", "111120"]["confidence"] > row["111110", "111110"]["confidence"] - 0.2
    assert "same number, same title" in row["111110", "111110"]["reason"]


def test_against_a_published_one(found: pl.DataFrame, tmp_path: Path) -> None:
    old, new = sources()
    pairs = ["111110,111110", "111160,111120", "311210,311210", "311210,311220"]
    (tmp_path / "truth.csv").write_text("old,new\n" + "\n".join(pairs) + "\n")
    truth = read_truth(tmp_path / "truth.csv", list(old.codes), list(new.codes))
    measured = agreement(found, truth)
    assert measured["recall"] == measured["first"] == 1
    assert (measured["codes"], measured["changed/codes"]) == (3, 2)
    worse = agreement(found.filter(pl.col("new_code") != "311220"), truth)
    assert worse["recall"] == pytest.approx(3 / 4)
    assert worse["changed/recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [("old\n1\n", "column 'new' is missing"), ("old,new\n999999,111110\n", "'999999' in column 'old'")],
)
def test_another_file_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(content)
    with pytest.raises(SourceError, match=said):
        read_truth(tmp_path / "truth.csv", ["111110"], ["111110"])


def test_the_command_writes_and_prints(tmp_path: Path) -> None:
    for source in sources():
        source.write(tmp_path)
    (tmp_path / "truth.csv").write_text("old,new\n111160,111120\n")
    options = [
        "--set",
        f"source={tmp_path}",
        "--out",
        str(tmp_path / "out.csv"),
        "--truth",
        str(tmp_path / "truth.csv"),
    ]
    result = CliRunner().invoke(cli.app, ["crosswalk", "2017", "2022", *options])
    assert result.exit_code == 0, result.output
    written = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert {"111160", "311210"} <= set(written["old_code"])
    assert "split" in result.output
    assert "recall" in result.output


def test_the_real_classification_becomes_itself(real_books: Workbooks) -> None:
    found = crosswalk(real_books, real_books)
    assert (found["old_code"] == found["new_code"]).all()
    assert found.height == real_books.codes.height == 2125
    assert set(found["kind"]) == {"identical"}
