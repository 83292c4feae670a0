"""The index: the same answers wherever it is copied to, and a clear refusal of what is not one."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import ModelError, NaicsError
from naics_pipeline.scorers.parts import parts_count
from naics_pipeline.search.index import FILES, Index, version_of, write_index
from naics_pipeline_tests.search.conftest import CODES, first_codes, ingredients_of

ASKED = ["growing soybeans", "pizza delivery", "grooming of dogs and cats", "family restaurants"]


def test_texts_find_their_codes_with_probabilities_that_sum_to_one(index: Index) -> None:
    chances = index.predict_proba(ASKED)
    assert first_codes(chances, index) == ["111110", "722513", "812910", "722511"]
    assert chances.sum(axis=1) == pytest.approx(np.ones(4))
    assert index.predict(ASKED).tolist() == ["111110", "722513", "812910", "722511"]
    assert index.predict(ASKED, level=2).tolist() == ["11", "72", "81", "72"]
    assert index.classes_.tolist() == sorted(CODES)
    assert index.predict_proba([]).shape == (0, len(CODES))


def test_a_batch_answers_as_each_text_alone(index: Index) -> None:
    alone = np.concatenate([index.predict_proba([text]) for text in ASKED])
    assert index.predict_proba(ASKED) == pytest.approx(alone, abs=1e-6)


def test_a_copy_gives_the_same_answers_and_a_second_build_the_same_version(
    index: Index, index_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(index_path, tmp_path / "copy")
    assert (Index.load(tmp_path / "copy").predict_proba(ASKED) == index.predict_proba(ASKED)).all()
    (tmp_path / "again").mkdir()
    manifest = write_index(tmp_path / "again" / "index", ingredients_of(tiny_base, tmp_path / "again"))
    assert version_of(manifest, index.precision) == index.version


def test_it_knows_validation_entries_once_its_weights_stand_and_no_held_out_one(
    tiny_base: Path, tmp_path: Path
) -> None:
    ingredients = ingredients_of(tiny_base, tmp_path)
    texts = ingredients.queries.columns["text"].to_list()
    split = pl.Series("split", ["validation", "held_out"] * (len(texts) // 2))
    queries = replace(ingredients.queries, columns=ingredients.queries.columns.with_columns(split))
    manifest = write_index(tmp_path / "index", replace(ingredients, queries=queries))
    places = pl.read_parquet(tmp_path / "index" / "places.parquet")
    assert manifest["fitted_on"] == len(texts[::2])
    assert set(texts[::2]) <= set(places.filter(kind="entry")["text"])
    assert not set(texts[1::2]) & set(places["text"])


def test_it_loads_and_answers_without_what_takes_long_to_import(index_path: Path) -> None:
    code = (
        "import sys; from naics_pipeline.search.index import Index; "
        f"Index.load({str(index_path)!r}).search('growing soybeans'); "
        "slow = {'dagster', 'mlflow', 'transformers', 'peft', 'sklearn', 'pandas', 'scipy.optimize'}; "
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(name: str, index_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(index_path, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=f"{name}: not as it was written"):
        Index.load(copy)
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        Index.load(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 99}, "format naics-index 99"),
        ({"format": "other"}, "format other"),
        ({"files": 3}, "not the"),
    ],
)
def test_an_index_of_another_format_is_refused(change: dict, says: str, index_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(index_path, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ModelError, match=says):
        Index.load(copy)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no index there"):
        Index.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="not the manifest"):
        Index.load(tmp_path)


def test_another_base_is_refused_and_the_same_one_elsewhere_is_taken(
    index: Index, index_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_base, tmp_path / "base")
    found = Index.load(index_path, base=str(moved)).predict_proba(ASKED)
    assert (found == index.predict_proba(ASKED)).all()
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="Name the right one"):
        Index.load(index_path, base=str(moved))


def test_an_answer_says_how_sure_it_is_at_every_level_and_why(index: Index) -> None:
    (answer,) = index.search("family restaurants with waiters", k=2, threshold=0.5)
    assert [level.code for level in answer.levels] == ["72", "722", "7225", "72251", "722511"]
    values = [level.probability for level in answer.levels]
    assert values == sorted(values, reverse=True)
    first = answer.candidates[0]
    assert (first.code, first.title) == ("722511", "Full-Service Restaurants")
    assert [code.code for code in first.path] == ["72", "722", "7225", "72251"]
    assert first.entries[0] == "family restaurants with waiters"
    assert "waiters" in first.words
    assert [code.code for code in first.confused_with] == ["722513"]
    assert len(answer.candidates) == 2
    assert answer.notes == []


def test_the_answer_is_the_deepest_code_that_is_probable_enough(index: Index) -> None:
    (answer,) = index.search("family restaurants", threshold=0.5)
    deepest = [level for level in answer.levels if level.probability >= 0.5][-1]
    assert answer.answer == deepest
    (sure,) = index.search("family restaurants", threshold=1.0)
    assert sure.answer is None or sure.answer.probability >= 1.0


def test_several_activities_are_told_apart_by_the_part_that_led_to_each(index: Index) -> None:
    (answer,) = index.search("growing soybeans; grooming of dogs", threshold=0.4)
    assert {part.code: part.part for part in answer.activities} == {
        "111110": "growing soybeans",
        "812910": "grooming of dogs",
    }
    assert {found.code for found in answer.candidates[:2]} == {"111110", "812910"}
    assert index.search("growing soybeans")[0].activities == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no text"),
        (" \n\t\0", "no text"),
        ("qwxz vbnm", "No word"),
        ("реставрация мебели", "No word"),
        ("Wir backen Brot und growing", "Most of its words"),
        ("grooming of dogs " * 60_000, "first 2,000 of 1,020,000"),
        ("[red] \ud800 grooming", None),
    ],
)
def test_any_text_gets_an_answer_that_owns_its_doubts(text: str, says: str | None, index: Index) -> None:
    # Of a text without a known word a sector of two of the five codes gets at most 1/4 + 2 * (3/4) / 5.
    (answer,) = index.search(text, threshold=0.56)
    assert len(answer.candidates) == 5
    if says is not None:
        assert says in answer.notes[0]
    if says in ("no text", "No word"):
        assert answer.answer is None
    if says == "no text":
        assert answer.candidates[0].probability == pytest.approx(1 / len(CODES))


def test_a_text_of_unknown_words_gets_a_quarter_of_its_certainty(index: Index) -> None:
    (answer,) = index.search("qwxz vbnm")
    (alone,) = index.probable(index.read(["qwxz vbnm"])).chances
    found = {candidate.code: candidate.probability for candidate in answer.candidates}
    assert found == pytest.approx(dict(zip(index.candidates.tolist(), 0.25 * alone + 0.75 / 5, strict=True)))
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_what_cannot_be_asked_is_refused(index: Index) -> None:
    for wrong in ({"k": 0}, {"threshold": 0}, {"threshold": 1.5}):
        with pytest.raises(NaicsError):
            index.search("corn", **wrong)
    assert index.search([]) == []


def test_a_batch_reads_the_parts_of_texts_they_count_for_and_says_what_a_search_says(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, far = "kennels, pet boarding", "cats and dogs and pizza"
    gauged = replace(index.blend.blend, known=(-0.4, -0.1))
    monkeypatch.setattr(index, "blend", replace(index.blend, blend=gauged))
    assert parts_count(index.probable(index.read([known, far]))).tolist() == pytest.approx([0, 1])
    read: list[str] = []
    embed = index.embedder.embed_with_base
    monkeypatch.setattr(index.embedder, "embed_with_base", lambda rows: read.extend(rows["text"]) or embed(rows))
    chances = index.predict_proba([known, far])
    assert read == [known, far, "cats", "dogs", "pizza"]
    for row, answer in zip(chances, index.search([known, far], k=3), strict=True):
        assert sorted(row)[:-4:-1] == pytest.approx([found.probability for found in answer.candidates])
