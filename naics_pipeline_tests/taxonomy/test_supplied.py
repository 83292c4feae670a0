"""Corrections are trained on, and never give away what is measured on."""

import re
from pathlib import Path

import polars as pl
import pytest

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.supplied import with_corrections
from naics_pipeline.taxonomy.text import HELD_OUT, TRAIN

ENTRIES = pl.DataFrame(
    {
        "code": ["311811", "311812", "311811"],
        "entry": ["Bread baking", "Cake plants", "Rye loaves"],
        "split": [TRAIN, TRAIN, HELD_OUT],
    }
)
LEAVES = pl.Series("code", ["3118", "311811", "311812"])


def corrected(tmp_path: Path, content: str) -> list[tuple[str, str, str]]:
    path = tmp_path / "corrections.csv"
    path.write_text(content)
    return with_corrections(ENTRIES, path, LEAVES).rows()


def test_corrections_are_trained_on_and_replace_what_they_correct(tmp_path: Path) -> None:
    rows = corrected(tmp_path, 'text,code\n"pies,  fresh",311811\nCake plants,311811\n"pies, fresh",311812\n')
    assert rows == [
        ("311811", "Bread baking", TRAIN),
        ("311811", "Rye loaves", HELD_OUT),
        ("311811", "Cake plants", TRAIN),
        ("311812", "pies, fresh", TRAIN),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text\na\n", "column 'code' is missing"),
        ("text,code\npies,3118\n", "row 2: '3118' is no six-digit code"),
        ("text,code\npies,\n", "row 2: '' is no six-digit code"),
        ("text,code\npies,311811\ntarts,999999\n", "row 3: '999999' is no six-digit code"),
        ("text,code\n ,311811\n", "row 2: '311811' comes without a text"),
        ("text,code\nRYE  loaves,311812\n", "row 2: '311812' is given for a text that is kept from training"),
        ("text,code\nRye-loaves.,311812\n", "row 2: '311812' is given for a text that is kept from training"),
    ],
)
def test_corrections_that_cannot_be_trained_on_are_refused(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(SourceError, match=re.escape(says)):
        corrected(tmp_path, content)
    with pytest.raises(SourceError, match="not a readable CSV file"):
        with_corrections(ENTRIES, tmp_path / "none.csv", LEAVES)
