"""A trained text model at work: codes and free text to points."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.device import resolve
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.module import TextModel
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, tokenize
from naics_pipeline.text_model.training import load_weights, read_checkpoint


class TextEmbedder:
    """Embeds codes and free text with a checkpoint.

    Points are exported in float64, with the time coordinate computed there, so that they lie on the hyperboloid to
    float64 rounding.
    """

    def __init__(self, model: TextModel, settings: Settings, stage: str, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.settings, self.stage = settings, stage
        self.base = locate(settings.model.base, settings.model.base_sha256)
        self.tokenizer = load_tokenizer(self.base)

    @classmethod
    def load(cls, checkpoint: Path, accelerator: str = "auto") -> "TextEmbedder":
        """The embedder of a stage's checkpoint.

        Raises:
            ModelError: the checkpoint or its base model cannot be used.
        """
        content = read_checkpoint(checkpoint)
        settings = Settings.model_validate(content["settings"])
        model = TextModel(locate(settings.model.base, settings.model.base_sha256), settings)
        load_weights(model, checkpoint)
        return cls(model, settings, content["stage"], resolve(accelerator))

    @property
    def curvature(self) -> float:
        return float(self.model.fusion.curvature)

    @torch.inference_mode()
    def embed_codes(self, descriptions: pl.DataFrame, channels: Mapping[str, Ragged] | None = None) -> Embeddings:
        """Points of every code, from its four texts.

        Args:
            channels: their tokens or hidden states, as training had them; without it they are computed.
        """
        limits = self.settings.tokens
        channels = channels or {
            name: tokenize(self.tokenizer, descriptions[name].to_list(), getattr(limits, name)) for name in CHANNELS
        }
        rows = np.arange(descriptions.height)
        vectors = self.model.channel_vectors(channels, rows)
        present = np.stack([channels[name].lengths > 0 for name in CHANNELS], axis=1)
        points, _ = self.model.fusion(vectors, torch.from_numpy(present).to(vectors.device))
        return Embeddings(
            codes=descriptions["code"].to_numpy().astype(str),
            points=self._export(points),
            curvature=self.curvature,
            geometry=self.settings.model.geometry,
            metadata={"stage": self.stage},
        )

    def embed_entries(self, entries: pl.DataFrame) -> Embeddings:
        """Points of index entries (code, entry), each with the code that it belongs to."""
        return Embeddings(
            codes=entries["code"].to_numpy().astype(str),
            points=self.embed_texts(entries["entry"].to_list()),
            curvature=self.curvature,
            geometry=self.settings.model.geometry,
            metadata={"stage": self.stage},
        )

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Points of free texts, (n, d + 1) float64; each is read as a title, the other channels as absent."""
        ragged = tokenize(self.tokenizer, list(texts), self.settings.tokens.query)
        points, _ = self.model.query_points(self.model.query_vectors(ragged, np.arange(len(ragged))))
        return self._export(points)

    def _export(self, points: Tensor) -> np.ndarray:
        exact = points.cpu().double()
        if self.settings.model.geometry == "lorentz":
            exact = lorentz.from_spatial(exact[:, 1:], curvature=self.curvature)
        array: np.ndarray = exact.numpy()
        return array
