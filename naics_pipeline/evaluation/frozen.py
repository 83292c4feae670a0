"""Vectors of the base model as it comes, kept between runs: encoding is slow and the texts seldom change."""

from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.text_model.base import encode_texts, locate

TOKENS = 128

Encode = Callable[[str, Sequence[str]], np.ndarray]
"""A name under which the vectors are kept, and the texts, to (n, width) vectors of length 1."""


class FrozenVectors:
    """`encode_texts`, or what it gave last time for the same texts and the same weights.

    Args:
        base, sha256, device: as in `encode_texts`.
        directory: one file by name, replaced when its texts or the base are others; None: nothing is kept.
    """

    def __init__(self, base: str, sha256: str | None, device: str, directory: Path | None) -> None:
        self._base, self._sha256, self._device, self._directory = base, sha256, device, directory
        model = locate(base, sha256)
        files = [model / "model.safetensors", model / "config.json", *_tokenizer_files(model)]
        self._model = fingerprint(TOKENS, *files) if directory else ""

    def __call__(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """(n, width) float32 of length 1."""
        if self._directory is None:
            return self._encoded(texts)
        path, key = self._directory / f"{name}.npz", fingerprint(self._model, list(texts))
        kept = _read(path, key)
        if kept is not None:
            return kept
        vectors = self._encoded(texts)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=key, vectors=vectors)
        return vectors

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        # One text more where there is none: the width of no vectors has to be the base's, too.
        vectors = encode_texts(self._base, list(texts) or [""], TOKENS, sha256=self._sha256, device=self._device)
        return vectors[: len(texts)]


def _tokenizer_files(model: Path) -> list[Path]:
    return sorted(file for pattern in ("token*", "vocab*") for file in model.glob(pattern))


def _read(path: Path, key: str) -> np.ndarray | None:
    """The vectors of that key; None where there are none, or others, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.array(file["vectors"]) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
