"""Vectors of the base model as it comes, kept between runs: encoding is slow and the texts seldom change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import polars as pl

from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.scorers.scorer import words_of
from naics_pipeline.text_model.base import encode_texts, locate
from naics_pipeline.text_model.embeddings import Embeddings

TOKENS = 128

Encode = Callable[[str, Sequence[str]], np.ndarray]
"""A name under which the vectors are kept, and the texts, to (n, width) vectors of length 1."""


class FrozenVectors:
    """`encode_texts`, or what it gave last time for the same texts and the same weights; no text is read twice.

    Args:
        base, sha256, device: as in `encode_texts`.
        directory: one file by name, replaced when its texts or the base are others; None: nothing is kept.
    """

    def __init__(self, base: str, sha256: str | None, device: str, directory: Path | None) -> None:
        self._base, self._sha256, self._device, self._directory = base, sha256, device, directory
        model = locate(base, sha256)
        files = [model / "model.safetensors", model / "config.json", *_tokenizer_files(model)]
        self._model = fingerprint(TOKENS, *files) if directory else ""
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """(n, width) float32 of length 1."""
        if self._directory is None:
            return self._encoded(texts)
        path, key = self._directory / f"{name}.npz", fingerprint(self._model, list(texts))
        kept = _read(path, key)
        if kept is not None:
            self._known.update(zip(texts, kept, strict=True))
            return kept
        vectors = self._encoded(texts)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=key, vectors=vectors)
        return vectors

    def with_vectors(self, name: str, texts: Embeddings) -> Embeddings:
        """Texts that come with their words, with the vectors in the column vector."""
        vectors = self(name, words_of(texts))
        column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
        return replace(texts, columns=texts.columns.with_columns(column))

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        # One text more where there is none: the width of no vectors has to be the base's, too.
        wanted = list(texts) or [""]
        new = sorted(set(wanted) - self._known.keys())
        vectors = encode_texts(self._base, new, TOKENS, sha256=self._sha256, device=self._device) if new else ()
        self._known.update(zip(new, vectors, strict=True))
        return np.stack([self._known[text] for text in wanted])[: len(texts)]


def _tokenizer_files(model: Path) -> list[Path]:
    return sorted(file for pattern in ("token*", "vocab*") for file in model.glob(pattern))


def _read(path: Path, key: str) -> np.ndarray | None:
    """The vectors of that key; None where there are none, or others, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.array(file["vectors"]) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
