"""What a part of the model that rests says of texts, computed once and kept in files."""

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.text_model.base import WEIGHTS
from naics_pipeline.text_model.encoder import hidden_states
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.tokens import Ragged

logger = logging.getLogger(__name__)

_READ = "read"


class HiddenCache:
    """Files that serve every stage: a hundred megabytes in all."""

    def __init__(self, directory: Path, base: Path, tokens_per_group: int) -> None:
        self.directory, self.weights, self.tokens_per_group = directory, base / WEIGHTS, tokens_per_group
        self.used: set[str] = set()

    def long_texts(self, model: TextModel, name: str, texts: Ragged) -> Ragged:
        """Hidden states of a long channel below its adapter; its tokens where all blocks learn."""
        split = model.encoder.split(name)
        if split == 0:
            return texts
        compute = partial(hidden_states, model.encoder, name, texts, self.tokens_per_group)
        return Ragged(self._array(f"{name}-{split}", texts, lambda: compute().values), texts.offsets)

    def base_vectors(self, model: TextModel, texts: Ragged) -> torch.Tensor:
        """(n, width) float32; zeros where nothing asks what the base says."""
        if not model.settings.reads_base:
            return torch.zeros(len(texts), model.encoder.width)
        vectors = self._array("short", texts, lambda: model.base_vectors(texts).cpu().numpy())
        return torch.from_numpy(np.array(vectors, dtype=np.float32))

    def short_vectors(self, model: TextModel, texts: Ragged, base: torch.Tensor) -> torch.Tensor:
        """(n, width) what a model whose adapters rest says of short texts, with the base's own vectors (n, width)."""
        place = self._read_by(model, texts)
        if not _is_intact(place):
            self.keep_short_vectors(model, texts, model.read_short(texts, base))
        return torch.from_numpy(np.load(place))

    def keep_short_vectors(self, model: TextModel, texts: Ragged, vectors: torch.Tensor) -> None:
        """Keeps what a model has said of short texts, for stages that leave its adapters alone, and that only."""
        place = self._read_by(model, texts)
        for file in self.directory.glob(f"{_READ}-*.npy"):
            if file != place:
                file.unlink(missing_ok=True)
        if not _is_intact(place):
            self._write(place, vectors.float().cpu().numpy())

    def _read_by(self, model: TextModel, texts: Ragged) -> Path:
        weights = [value.cpu().numpy().tobytes() for _, value in sorted(model.encoder_state().items())]
        return self._place(_READ, texts, model.settings.model.base_share, *weights)

    def _place(self, name: str, texts: Ragged, *further: Any) -> Path:
        key = fingerprint(texts.values.tobytes(), texts.offsets.tobytes(), self.weights, *further)
        return self.directory / f"{name}-{key}.npy"

    def _array(self, name: str, texts: Ragged, compute: Callable[[], np.ndarray]) -> np.ndarray:
        place = self._place(name, texts)
        self.used.add(place.name)
        if not _is_intact(place):
            logger.info("Computing hidden states of %s tokens once", f"{len(texts.values):,}")
            self._write(place, compute())
        # An empty file cannot be mapped.
        array: np.ndarray = np.load(place, mmap_mode="r" if len(texts.values) else None)
        return array

    def _write(self, place: Path, array: np.ndarray) -> None:
        with replacing(place) as temporary:
            with temporary.open("wb") as file:
                np.save(file, array)
            digest = _digest(temporary.read_bytes())
            with temporary.open("ab") as file:
                file.write(digest)

    def forget_others(self) -> None:
        """Removes what was kept of texts or of a base that are no longer used."""
        for file in self.directory.glob("*.npy"):
            if file.name not in self.used and not file.name.startswith(f"{_READ}-"):
                file.unlink(missing_ok=True)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()


def _is_intact(place: Path) -> bool:
    """Whether the file is there and ends in the hash of what comes before: a flipped bit would train a wrong model."""
    if not place.is_file():
        return False
    content = memoryview(place.read_bytes())
    size = hashlib.sha256().digest_size
    if _digest(content[:-size]) == content[-size:]:
        return True
    logger.warning("%s: damaged, it is computed again", place)
    return False
