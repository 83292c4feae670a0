"""`naics search`, `classify` and `benchmark` as a user types them."""

import json
from pathlib import Path

import polars as pl
import pytest

from naics_pipeline import cli


@pytest.fixture
def naics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, index_path: Path):
    """Runs a command on the index; gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["naics", *map(str, arguments), "--index", str(index_path)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def test_search_shows_codes_with_their_reasons(naics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = naics("search", "grooming of dogs [bold]", "growing corn", "-k", 2)
    assert code == 0
    assert "812910" in out
    assert "Pet Care Services" in out
    assert "grooming of dogs [bold]" in out
    assert "Answer: " in out


def test_search_prints_json_alone(naics) -> None:
    code, out, _ = naics("search", "growing soybeans; grooming of dogs", "--json", "--threshold", 0.4)
    assert code == 0
    (answer,) = json.loads(out)
    assert {part["code"] for part in answer["activities"]} == {"111110", "812910"}
    assert answer["candidates"][0]["path"][0]["code"] in ("11", "81")


def test_classify_writes_a_coded_file(naics, tmp_path: Path) -> None:
    pl.DataFrame({"does": ["growing corn", ""]}).write_csv(tmp_path / "in.csv")
    code, out, _ = naics("classify", tmp_path / "in.csv", "--text", "does", "--out", tmp_path / "o.parquet", "--top", 1)
    assert code == 0
    assert "2 rows" in out
    assert "1 of them without" in out
    assert pl.read_parquet(tmp_path / "o.parquet")["code_1"].to_list() == ["111150", None]


def test_classify_writes_a_file_for_each_of_a_directory(naics, tmp_path: Path) -> None:
    for name, texts in (("a.csv", ["growing corn", ""]), ("b.csv", ["kennels"])):
        (tmp_path / "in").mkdir(exist_ok=True)
        pl.DataFrame({"does": texts}).write_csv(tmp_path / "in" / name)
    command = ("classify", tmp_path / "in", "--text", "does", "--out", tmp_path / "coded")
    code, out, _ = naics(*command)
    assert code == 0
    assert "2 files with 3 rows" in out
    assert (tmp_path / "coded" / "manifest.json").is_file()
    code, out, _ = naics(*command)
    assert "2 files were done by an earlier run" in out
    code, _, err = naics("classify", tmp_path / "in", "--text", "does", "--out", tmp_path / "coded.csv")
    assert code == 1
    assert "needs a directory" in err
    one = ("classify", tmp_path / "in" / "a.csv", "--text", "does", "--out", tmp_path / "a.csv", "--workers", 2)
    assert "one file is coded by one process" in naics(*one)[2]


def test_benchmark_measures_a_labelled_file(naics, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["growing corn"], "codes": ["111150"]}).write_csv(tmp_path / "in.csv")
    code, out, _ = naics("benchmark", tmp_path / "in.csv", "--json")
    assert code == 0
    assert json.loads(out)["top1"] == 1
    code, out, _ = naics("benchmark", tmp_path / "in.csv")
    assert "Surest errors" in out


def test_an_error_is_one_message(naics, tmp_path: Path) -> None:
    code, out, err = naics("classify", tmp_path / "none.csv", "--text", "a", "--out", tmp_path / "o.csv")
    assert code == 1
    assert "no such file" in err
    assert "Traceback" not in out + err
