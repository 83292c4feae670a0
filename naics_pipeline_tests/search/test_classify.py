"""Files of any kind and size are coded row by row, nothing is lost, and an interrupted run goes on."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.search import classify
from naics_pipeline.search.classify import Coded, Coding, Task, classify_file
from naics_pipeline.search.index import Index

TEXTS = ["growing soybeans", "grooming of dogs", "", "pizza, delivery", "family restaurants", None, "kennels"]


@pytest.fixture
def frame() -> pl.DataFrame:
    return pl.DataFrame({"id": list(range(len(TEXTS))), "what": TEXTS, "note": ['a "b", c\nd'] * len(TEXTS)})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "ROWS", 2)


def written(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)


def task_of(frame: pl.DataFrame, directory: Path, source: str = "in.csv", out: str = "out.csv", k: int = 2) -> Task:
    file = directory / source
    frame.write_parquet(file) if file.suffix == ".parquet" else frame.write_csv(file)
    return Task(file, directory / out, Coding("what", k))


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_every_row_and_column_is_kept_and_coded_as_in_a_search(
    source: str, out: str, frame: pl.DataFrame, index: Index, tmp_path: Path
) -> None:
    done = classify_file(index, task_of(frame, tmp_path, source, out))
    assert done == Coded(rows=7, bad=2, resumed=0)
    found = written(tmp_path / out)
    names = ["code_1", "code_2", "probability_1", "probability_2", "answer", "answer_level", "index_version"]
    assert found.columns == [*frame.columns, *names]
    assert found["note"].to_list() == frame["note"].to_list()
    assert [int(value) for value in found["id"]] == frame["id"].to_list()
    for row, text in enumerate(TEXTS):
        if not text:
            assert found["code_1"][row] is None
            assert found["answer"][row] is None
            continue
        (answer,) = index.search(text, k=2)
        assert [found["code_1"][row], found["code_2"][row]] == [candidate.code for candidate in answer.candidates]
        assert float(found["probability_1"][row]) == pytest.approx(answer.candidates[0].probability, abs=1e-6)
        assert found["answer"][row] == (answer.answer.code if answer.answer else None)
        assert int(found["answer_level"][row]) == (len(answer.answer.code) if answer.answer else 0)
    assert set(found["index_version"]) == {index.version}
    with (tmp_path / "out.bad_rows.csv").open() as file:
        assert list(csv.reader(file)) == [["row", "reason"], ["3", "no text"], ["6", "no text"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, out, "out.bad_rows.csv"])


def test_an_interrupted_run_goes_on_and_ends_as_an_unbroken_one(
    frame: pl.DataFrame, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(frame, tmp_path)
    classify_file(index, task)
    expected = task.out.read_bytes()
    task.out.unlink()

    def stop(done: Coded) -> None:
        if done.rows >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify_file(index, task, stop)
    assert not task.out.exists()
    asked: list[str] = []
    real = Index.predict_proba

    def counted(self: Index, texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Index, "predict_proba", counted)
    done = classify_file(index, task)
    assert (done.rows, done.bad, done.resumed) == (7, 2, 4)
    assert asked == ["family restaurants", "kennels"]
    assert task.out.read_bytes() == expected


def test_an_input_that_has_changed_is_coded_anew(frame: pl.DataFrame, index: Index, tmp_path: Path) -> None:
    def stop(done: Coded) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify_file(index, task_of(frame, tmp_path), stop)
    done = classify_file(index, task_of(frame.reverse(), tmp_path))
    assert done.resumed == 0
    assert written(tmp_path / "out.csv")["what"][0] == "kennels"


def test_rows_that_do_not_fit_the_header_are_kept_and_listed(index: Index, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"what,id\ngrowing corn,1\nkennels\na,b,c\ngrowing \xff corn,4\n")
    done = classify_file(index, Task(tmp_path / "in.csv", tmp_path / "out.csv", Coding("what", 1)))
    assert (done.rows, done.bad) == (4, 2)
    found = written(tmp_path / "out.csv")
    assert found["id"].to_list() == ["1", None, "b,c", "4"]
    assert found["code_1"].to_list() == ["111150", None, None, "111150"]
    assert "1 fields instead of 2" in (tmp_path / "out.bad_rows.csv").read_text()


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_a_file_without_rows_gives_its_columns(source: str, out: str, index: Index, tmp_path: Path) -> None:
    empty = pl.DataFrame({"what": []}, schema={"what": pl.String})
    assert classify_file(index, task_of(empty, tmp_path, source, out)).rows == 0
    assert written(tmp_path / out).columns[:2] == ["what", "code_1"]


def test_what_cannot_be_coded_is_refused_with_the_way_out(frame: pl.DataFrame, index: Index, tmp_path: Path) -> None:
    task = task_of(frame, tmp_path)
    with pytest.raises(NaicsError, match="no column 'words'"):
        classify_file(index, Task(task.file, task.out, Coding("words")))
    with pytest.raises(NaicsError, match="'code_1' already"):
        classify_file(index, task_of(frame.with_columns(code_1=pl.lit("x")), tmp_path))
    with pytest.raises(NaicsError, match="neither CSV nor Parquet"):
        Task(tmp_path / "in.xlsx", task.out, Coding("what"))
    with pytest.raises(NaicsError, match="its own input"):
        Task(task.file, task.file, Coding("what"))
    with pytest.raises(NaicsError, match="no such file"):
        classify_file(index, Task(tmp_path / "none.csv", task.out, Coding("what")))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(NaicsError, match="not a readable Parquet"):
        classify_file(index, Task(tmp_path / "broken.parquet", task.out, Coding("what")))
