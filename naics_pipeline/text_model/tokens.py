"""Token ids of every code's texts, kept at their own lengths and never used where they may be stale."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.settings import Tokens
from naics_pipeline.text_model.base import load_tokenizer

logger = logging.getLogger(__name__)

CHANNELS = ("title", "description", "examples", "excluded")
LONG_CHANNELS = ("description", "excluded")
SHORT = "short"
"""The adapter that reads titles, examples and free text: all that is as short as a phrase."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end.

    Attributes:
        values: (total length, ...) token ids, or hidden states with a last dimension of the model's width.
        offsets: (rows + 1,) int64, where each row begins; an empty row is an absent text.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return cls(np.fromiter((value for row in rows for value in row), np.int32, offsets[-1]), offsets)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of several, one after another."""
        lengths = np.concatenate([part.lengths for part in parts])
        values = np.concatenate([part.values for part in parts])
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def taken(self, rows: np.ndarray) -> "Ragged":
        """Chosen rows alone."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[rows], lengths) + inside], offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Chosen rows padded with zeros to the longest: values (n, longest, ...) and mask (n, longest) bool."""
        lengths = self.lengths[rows]
        position = np.arange(lengths.max(initial=1))
        mask = position < lengths[:, None]
        taken = self.values[np.where(mask, self.offsets[rows][:, None] + position, 0)]
        taken[~mask] = 0
        return torch.from_numpy(taken), torch.from_numpy(mask)


@dataclass(frozen=True)
class TokenCache:
    """Token ids of N codes, in the order of descriptions.

    Attributes:
        channels: title, description and excluded, a row per code.
        examples: a row per example, those of a code one after another.
        example_code: (E,) int64, index of the code that each example belongs to.
    """

    channels: dict[str, Ragged]
    examples: Ragged
    example_code: np.ndarray

    def token_counts(self) -> dict[str, int]:
        """Tokens by channel."""
        ragged = {**self.channels, "examples": self.examples}
        return {name: int(ragged[name].offsets[-1]) for name in CHANNELS}


def tokenize(tokenizer: Any, texts: Sequence[str | None], limit: int) -> Ragged:
    """Token ids of texts, truncated to `limit` tokens; None gives an empty row."""
    present = [position for position, text in enumerate(texts) if text is not None]
    rows: list[Sequence[int]] = [()] * len(texts)
    if present:
        ids = tokenizer([texts[i] for i in present], truncation=True, max_length=limit, return_attention_mask=False)
        for position, row in zip(present, ids["input_ids"], strict=True):
            rows[position] = row
    return Ragged.from_lists(rows)


def code_tokens(tokenizer: Any, descriptions: pl.DataFrame, limits: Tokens) -> TokenCache:
    """Tokenizes every text of every code.

    Args:
        descriptions: one row per code; title, description, excluded are texts, examples lists of them; null is absent.
    """
    limit = {"title": limits.short, "description": limits.description, "excluded": limits.excluded}
    channels = {name: tokenize(tokenizer, descriptions[name].to_list(), size) for name, size in limit.items()}
    counts = descriptions["examples"].list.len().fill_null(0).to_numpy()
    examples = descriptions["examples"].drop_nulls().explode(empty_as_null=False).to_list()
    return TokenCache(
        channels, tokenize(tokenizer, examples, limits.short), np.repeat(np.arange(descriptions.height), counts)
    )


def cache_fingerprint(descriptions: pl.DataFrame, limits: Tokens, base: Path) -> str:
    """A hash of all that token ids depend on: tokenizer files, limits and texts."""
    files = sorted(path for path in base.iterdir() if path.name.startswith(("tokenizer", "vocab", "merges", "special")))
    texts = descriptions.select("code", *CHANNELS).to_dict(as_series=False)
    return fingerprint([path.name for path in files], *files, limits.model_dump(), texts)


def build_token_cache(descriptions: pl.DataFrame, limits: Tokens, base: Path, directory: Path) -> TokenCache:
    """Tokenizes every text and writes the cache.

    Args:
        descriptions: as `code_tokens` takes them.
        base: directory of a located base model.
        directory: where the cache goes: tokens.parquet and manifest.json.
    """
    cache = code_tokens(load_tokenizer(base), descriptions, limits)
    columns = {name: _to_series(ragged) for name, ragged in cache.channels.items()}
    frame = pl.DataFrame({"code": descriptions["code"], **columns, "examples": _nested(cache, descriptions.height)})
    with replacing(directory) as temporary:
        temporary.mkdir()
        frame.write_parquet(temporary / "tokens.parquet", compression="zstd")
        manifest = {
            "fingerprint": cache_fingerprint(descriptions, limits, base),
            "tokens_sha256": fingerprint(temporary / "tokens.parquet"),
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest))
    return cache


def _to_series(ragged: Ragged) -> pl.Series:
    lists = pa.LargeListArray.from_arrays(ragged.offsets, ragged.values, mask=pa.array(ragged.lengths == 0))
    return pl.Series(lists)


def _nested(cache: TokenCache, codes: int) -> pl.Series:
    inner = pa.LargeListArray.from_arrays(cache.examples.offsets, cache.examples.values)
    counts = np.bincount(cache.example_code, minlength=codes)
    outer = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pl.Series(pa.LargeListArray.from_arrays(outer, inner, mask=pa.array(counts == 0)))


def load_token_cache(descriptions: pl.DataFrame, limits: Tokens, base: Path, directory: Path) -> TokenCache:
    """The cache in `directory`, rebuilt first where it is absent, damaged, or made from other texts or settings."""
    reason = _why_unusable(directory, cache_fingerprint(descriptions, limits, base))
    if reason:
        logger.warning("Rebuilding the token cache in %s: %s", directory, reason)
        return build_token_cache(descriptions, limits, base, directory)
    frame = pl.read_parquet(directory / "tokens.parquet")
    counts = frame["examples"].list.len().fill_null(0).to_numpy()
    return TokenCache(
        {name: _from_series(frame[name]) for name in CHANNELS if name != "examples"},
        _from_series(frame["examples"].drop_nulls().explode(empty_as_null=False)),
        np.repeat(np.arange(frame.height), counts),
    )


def _from_series(column: pl.Series) -> Ragged:
    lengths = column.list.len().fill_null(0).to_numpy()
    return Ragged(
        column.drop_nulls().explode(empty_as_null=False).to_numpy().astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _why_unusable(directory: Path, expected: str) -> str | None:
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        found = fingerprint(directory / "tokens.parquet")
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    if manifest.get("tokens_sha256") != found:
        return "tokens.parquet is damaged"
    if manifest.get("fingerprint") != expected:
        return "texts, limits or tokenizer have changed"
    return None
