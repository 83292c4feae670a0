"""What the frozen part of the model says of texts, computed once and kept in files."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.text_model.encoder import hidden_states
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.tokens import Ragged

logger = logging.getLogger(__name__)


class HiddenCache:
    """Files that serve every stage: a hundred megabytes in all."""

    def __init__(self, directory: Path, base: Path, tokens_per_group: int) -> None:
        self.directory, self.weights, self.tokens_per_group = directory, base / "model.safetensors", tokens_per_group
        self.used: set[str] = set()

    def long_texts(self, model: TextModel, name: str, texts: Ragged) -> Ragged:
        """Hidden states of a long channel below its adapter; its tokens where all blocks learn."""
        split = model.encoder.split(name)
        if split == 0:
            return texts
        compute = partial(hidden_states, model.encoder, name, texts, self.tokens_per_group)
        return Ragged(self._array(f"{name}-{split}", texts, lambda: compute().values), texts.offsets)

    def base_vectors(self, model: TextModel, texts: Ragged) -> torch.Tensor:
        """(n, width) float32; zeros where the base's own vectors have no share."""
        if model.settings.model.base_share == 0:
            return torch.zeros(len(texts), model.encoder.width)
        vectors = self._array("short", texts, lambda: model.base_vectors(texts).cpu().numpy())
        return torch.from_numpy(np.array(vectors, dtype=np.float32))

    def _array(self, name: str, texts: Ragged, compute: Callable[[], np.ndarray]) -> np.ndarray:
        key = fingerprint(texts.values.tobytes(), texts.offsets.tobytes(), self.weights)
        place = self.directory / f"{name}-{key}.npy"
        self.used.add(place.name)
        if not place.is_file():
            logger.info("Computing hidden states of %s tokens once", f"{len(texts.values):,}")
            with replacing(place) as temporary, temporary.open("wb") as file:
                np.save(file, compute())
        # An empty file cannot be mapped.
        array: np.ndarray = np.load(place, mmap_mode="r" if len(texts.values) else None)
        return array

    def forget_others(self) -> None:
        """Removes what was kept of texts or of a base that are no longer used."""
        for file in self.directory.glob("*.npy"):
            if file.name not in self.used:
                file.unlink()
