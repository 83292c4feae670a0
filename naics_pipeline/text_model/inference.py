"""A trained text model at work: free text, and codes, to points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.bert import Tokens
from naics_pipeline.text_model.checkpoints import load_weights, read_checkpoint, read_record
from naics_pipeline.text_model.device import resolve
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.model import CodeVectors, TextModel
from naics_pipeline.text_model.short import Precision, ShortTexts, short_texts
from naics_pipeline.text_model.tokens import CHANNELS, code_tokens, tokenize


class ShortTextEmbedder:
    """Embeds free text with a checkpoint.

    Points are exported in float64, with the time coordinate computed there, so that they lie on the hyperboloid to
    float64 rounding.

    Args:
        tokenizer: called as those of transformers are.
    """

    def __init__(
        self, model: TextModel | ShortTexts, settings: Settings, stage: str, device: torch.device, tokenizer: Any
    ) -> None:
        self.model = model.to(device).eval()
        self.settings, self.stage, self.tokenizer = settings, stage, tokenizer

    @property
    def curvature(self) -> float:
        return float(self.model.fusion.curvature)

    def embed_rows(self, rows: pl.DataFrame) -> Embeddings:
        """Points of texts, with what the frame says of each.

        Args:
            rows: columns text and code, the one that a text belongs to ("" where none is known), and any others.
        """
        return self.texts(rows["code"].to_numpy().astype(str), self.vectors(rows["text"].to_list()), rows.drop("code"))

    @torch.inference_mode()
    def embed_with_base(self, rows: pl.DataFrame) -> Embeddings:
        """`embed_rows`, with the base model's own vector of each text, of length 1, in the column vector."""
        tokens = tokenize(self.tokenizer, rows["text"].to_list(), self.settings.tokens.short)
        base = self.model.base_vectors(tokens)
        column = pl.Series("vector", base.cpu().numpy(), dtype=pl.Array(pl.Float32, base.shape[1]))
        codes = rows["code"].to_numpy().astype(str)
        return self.texts(codes, self.model.read_short(tokens, base), rows.drop("code").with_columns(column))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Points of free texts, (n, d + 1) float64."""
        return self._export(self.model.fusion.place_texts(self.vectors(texts)))

    @torch.inference_mode()
    def texts(self, codes: np.ndarray, vectors: Tensor, columns: pl.DataFrame) -> Embeddings:
        """Points of texts that have been read, each with the code that it belongs to.

        Args:
            columns: what else is known of each text.
        """
        return self._embeddings(codes, self.model.fusion.place_texts(vectors), columns)

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """What the adapter and the base say of texts, (n, width)."""
        return self.model.read_short(tokenize(self.tokenizer, list(texts), self.settings.tokens.short))

    def _embeddings(self, codes: np.ndarray, points: Tensor, columns: pl.DataFrame) -> Embeddings:
        return Embeddings(
            codes=codes,
            points=self._export(points),
            curvature=self.curvature,
            geometry=self.settings.model.geometry,
            metadata={"stage": self.stage},
            columns=columns,
        )

    def _export(self, points: Tensor) -> np.ndarray:
        exact = points.cpu().double()
        if self.settings.model.geometry == "lorentz":
            exact = lorentz.from_spatial(exact[:, 1:], curvature=self.curvature)
        array: np.ndarray = exact.numpy()
        return array


class TextEmbedder(ShortTextEmbedder):
    """Embeds codes as well."""

    model: TextModel

    def __init__(self, model: TextModel, settings: Settings, stage: str, device: torch.device) -> None:
        tokenizer = load_tokenizer(locate(settings.model.base, settings.model.base_sha256))
        super().__init__(model, settings, stage, device, tokenizer)

    @classmethod
    def load(cls, checkpoint: Path, accelerator: str = "auto", base: str | None = None) -> "TextEmbedder":
        """The embedder of a stage's checkpoint.

        Args:
            base: where the base model is now; None: where it was in training.
        Raises:
            ModelError: the checkpoint or its base model cannot be used.
        """
        record = read_record(checkpoint)
        settings, directory = _settings(record, base)
        model = TextModel(directory, settings, record["codes"])
        load_weights(model, checkpoint)
        return cls(model, settings, record["stage"]["name"], resolve(accelerator))

    @torch.inference_mode()
    def embed_codes(self, descriptions: pl.DataFrame) -> Embeddings:
        """Points of every code, from its texts and, where training knew the code, its offset."""
        cache = code_tokens(self.tokenizer, descriptions, self.settings.tokens)
        lengths = {name: ragged.lengths for name, ragged in cache.channels.items()}
        lengths["examples"] = np.bincount(cache.example_code, minlength=descriptions.height)
        present = np.stack([lengths[name] > 0 for name in CHANNELS], axis=1)
        titles = cache.channels["title"]
        vectors = self.model.code_vectors(titles, cache.examples, cache.example_code, cache.channels, present)
        return self.codes(descriptions["code"].to_numpy().astype(str), vectors)

    @torch.inference_mode()
    def codes(self, codes: np.ndarray, vectors: CodeVectors) -> Embeddings:
        """Points of codes whose texts have been read."""
        return self._embeddings(codes, self.model.code_points(vectors, codes), pl.DataFrame())


def load_short(
    checkpoint: Path, accelerator: str = "auto", base: str | None = None, precision: Precision = "float32"
) -> ShortTextEmbedder:
    """An embedder of free text, fast: a plain BERT is read on the CPU without transformers, any other base with it.

    Args:
        base: where the base model is now; None: where it was in training.
        precision: of a plain BERT on the CPU; any other base is read in float32.
    Raises:
        ModelError: the checkpoint or its base model cannot be used.
    """
    found = read_checkpoint(checkpoint)
    settings, directory = _settings(found.record, base)
    if resolve(accelerator).type == "cpu" and (texts := short_texts(directory, found, settings, precision)) is not None:
        return ShortTextEmbedder(texts, settings, found.record["stage"]["name"], resolve("cpu"), Tokens(directory))
    embedder = TextEmbedder.load(checkpoint, accelerator, base)
    embedder.model.encoder.merge_short()
    return embedder


def _settings(record: dict[str, Any], base: str | None) -> tuple[Settings, Path]:
    """A checkpoint's settings, with its base where that is now, and the base's directory."""
    settings = Settings.model_validate(record["settings"])
    if base is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"base": base})})
    return settings, locate(settings.model.base, settings.model.base_sha256)
