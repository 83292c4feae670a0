"""Labelled texts: reading them, several right codes, codes of another vintage, and ties."""

from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.evaluation.labelled import LABELLED_RANKS, LabelledTexts, label_hits, read_labelled
from naics_pipeline.scorers.blend import Probable

CANDIDATES = np.array(["111110", "111120", "221110"])


def rows(tmp_path: Path, text: str) -> pl.DataFrame:
    (tmp_path / "real.csv").write_text(text, encoding="utf-8")
    return read_labelled(tmp_path / "real.csv")


def test_a_row_for_each_text_and_each_part(tmp_path: Path) -> None:
    found = rows(tmp_path, 'codes,text\n111110 999990,"Soy, corn"\n,Power\n')
    assert found.columns == ["text_id", "part", "codes", "text"]
    assert found.rows() == [
        (0, 0, ["111110", "999990"], "Soy, corn"),
        (0, 1, ["111110", "999990"], "Soy"),
        (0, 2, ["111110", "999990"], "corn"),
        (1, 0, [], "Power"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [("text\nSoy\n", "no column 'codes'"), ("text,codes\nSoy,1\n,2\n", "row 3"), (None, "not a readable")],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path: Path, text: str | None, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        rows(tmp_path, text) if text else read_labelled(tmp_path / "none.csv")


def test_codes_of_another_vintage_are_counted_apart_and_the_best_right_code_counts(tmp_path: Path) -> None:
    texts = LabelledTexts.of(
        rows(tmp_path, "text,codes\nOld thing,999990\nSoy,111110 221110 999990\nCorn,111120\nNone,\n"), CANDIDATES
    )
    assert (texts.left_out, texts.other_codes) == (2, 2)
    scores = np.array([[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2]], dtype=float)
    found = texts.metrics({"code": scores}, {})
    assert found == {
        "labelled/texts": 2,
        "labelled/left_out": 2,
        "labelled/other_codes": 2,
        "labelled/top1": 0.5,
        "labelled/top5": 1,
        "labelled/top10": 1,
    }


def test_parts_reach_their_own_text_alone(tmp_path: Path) -> None:
    texts = LabelledTexts.of(
        rows(tmp_path, 'text,codes\n"Old, thing",999990\nCorn,111120\n"Soy, power",221110\n'), CANDIDATES
    )
    sure = np.eye(3)
    # Old, its two parts, Corn, "Soy, power", Soy, power: only the last part is sure of the right code.
    chances = np.array([sure[2], sure[1], sure[1], sure[1], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4], sure[2]])
    found = texts.metrics({"code": -chances}, {"parts": Probable(chances, np.ones(7))})
    assert found["labelled/top1"] == 0.5
    assert found["labelled/parts/top1"] == 1


def test_ties_against_every_order_of_the_tied() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (6, 6)).astype(float)
    is_right = rng.uniform(size=(6, 6)) < 0.4
    is_right[:, 0] = True
    hits = {k: [] for k in LABELLED_RANKS}
    for row, right in zip(scores, is_right, strict=True):
        orders = [order for order in permutations(range(6)) if (np.diff(row[list(order)]) >= 0).all()]
        for k in LABELLED_RANKS:
            hits[k].append(np.mean([right[list(order[:k])].any() for order in orders]))
    found = label_hits(scores, is_right)
    assert found.keys() == {f"top{k}" for k in LABELLED_RANKS}
    assert all(found[f"top{k}"] == pytest.approx(np.array(hits[k])) for k in LABELLED_RANKS)


def test_without_any_text_there_are_names_but_no_values(tmp_path: Path) -> None:
    texts = LabelledTexts.of(rows(tmp_path, "text,codes\nOld,999990\n"), CANDIDATES)
    found = texts.metrics({"code": np.zeros((1, 3))}, {"parts": Probable(np.full((1, 3), 1 / 3), np.ones(1))})
    assert np.isnan(found["labelled/parts/top1"])
    assert found["labelled/left_out"] == 1
