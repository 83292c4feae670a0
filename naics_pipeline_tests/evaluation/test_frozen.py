"""Vectors are computed once for the same texts and weights, and never taken from anything else."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.evaluation import frozen
from naics_pipeline.evaluation.frozen import FrozenVectors


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was really read."""
    seen: list[list[str]] = []
    real = frozen.encode_texts

    def encode(base: str, texts: list[str], *arguments: object, **named: object) -> np.ndarray:
        seen.append(texts)
        return real(base, texts, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen, "encode_texts", encode)
    return seen


def test_the_same_texts_are_read_once(tiny_base: Path, tmp_path: Path, encoded: list[list[str]]) -> None:
    first, second = (FrozenVectors(str(tiny_base), None, "cpu", tmp_path)("codes", ["soy", "corn"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert encoded == [["corn", "soy"]]
    FrozenVectors(str(tiny_base), None, "cpu", tmp_path)("codes", ["soy", "corns"])
    assert len(encoded) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["codes.npz"]


def test_another_base_or_a_damaged_file_is_not_taken(tiny_base: Path, tmp_path: Path, encoded: list[list[str]]) -> None:
    other = tmp_path / "base"
    shutil.copytree(tiny_base, other)
    kept = tmp_path / "kept"
    FrozenVectors(str(tiny_base), None, "cpu", kept)("codes", ["soy"])
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    FrozenVectors(str(other), None, "cpu", kept)("codes", ["soy"])
    assert len(encoded) == 2
    (kept / "codes.npz").write_bytes((kept / "codes.npz").read_bytes()[:50])
    assert FrozenVectors(str(other), None, "cpu", kept)("codes", ["soy"]).shape == (1, 32)
    assert len(encoded) == 3


def test_no_texts_have_vectors_of_the_same_width(tiny_base: Path) -> None:
    assert FrozenVectors(str(tiny_base), None, "cpu", None)("codes", []).shape == (0, 32)


def test_what_one_list_has_read_another_does_not_read_again(tiny_base: Path, encoded: list[list[str]]) -> None:
    vectors = FrozenVectors(str(tiny_base), None, "cpu", None)
    both = vectors("places", ["soy", "corn", "soy"])
    assert (vectors("entries", ["corn", "rye"])[0] == both[1]).all()
    assert (both[0] == both[2]).all()
    assert encoded == [["corn", "soy"], ["rye"]]
