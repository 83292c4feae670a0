"""Token ids of every code's four texts, kept at their own lengths and never used where they may be stale."""

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

from naics_pipeline.settings import Tokens
from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.text_model.base import load_tokenizer

logger = logging.getLogger(__name__)

CHANNELS = ("title", "description", "examples", "excluded")


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

    def __len__(self) -> int:
        return len(self.offsets) - 1

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
    """Token ids by channel, each with one row per code in the order of descriptions."""

    channels: dict[str, Ragged]

    @property
    def present(self) -> np.ndarray:
        """(codes, 4) bool: which channels of a code have a text."""
        return np.stack([self.channels[name].lengths > 0 for name in CHANNELS], axis=1)


def tokenize(tokenizer: Any, texts: Sequence[str | None], limit: int) -> Ragged:
    """Token ids of texts, truncated to `limit` tokens; None gives an empty row."""
    present = [position for position, text in enumerate(texts) if text is not None]
    rows: list[Sequence[int]] = [()] * len(texts)
    if present:
        ids = tokenizer([texts[i] for i in present], truncation=True, max_length=limit, return_attention_mask=False)
        for position, row in zip(present, ids["input_ids"], strict=True):
            rows[position] = row
    return Ragged.from_lists(rows)


def cache_fingerprint(descriptions: pl.DataFrame, limits: Tokens, base: Path) -> str:
    """A hash of all that token ids depend on: tokenizer files, limits and texts."""
    files = sorted(path for path in base.iterdir() if path.name.startswith(("tokenizer", "vocab", "merges", "special")))
    texts = descriptions.select("code", *CHANNELS).to_dict(as_series=False)
    return fingerprint([path.name for path in files], *files, limits.model_dump(), texts)


def build_token_cache(
    descriptions: pl.DataFrame, limits: Tokens, base: Path, directory: Path
) -> tuple[TokenCache, dict[str, int]]:
    """Tokenizes every text and writes the cache.

    Args:
        descriptions: one row per code with the four channels; null is an absent text.
        base: directory of a located base model.
        directory: where the cache goes: tokens.parquet and manifest.json.
    Returns: the cache, and its number of tokens by channel.
    """
    tokenizer = load_tokenizer(base)
    cache = TokenCache(
        {name: tokenize(tokenizer, descriptions[name].to_list(), getattr(limits, name)) for name in CHANNELS}
    )
    frame = pl.DataFrame(
        {"code": descriptions["code"], **{name: _to_series(cache.channels[name]) for name in CHANNELS}}
    )
    with replacing(directory) as temporary:
        temporary.mkdir()
        frame.write_parquet(temporary / "tokens.parquet", compression="zstd")
        manifest = {
            "fingerprint": cache_fingerprint(descriptions, limits, base),
            "tokens_sha256": fingerprint(temporary / "tokens.parquet"),
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest))
    return cache, {name: int(cache.channels[name].offsets[-1]) for name in CHANNELS}


def _to_series(ragged: Ragged) -> pl.Series:
    lists = pa.LargeListArray.from_arrays(ragged.offsets, ragged.values, mask=pa.array(ragged.lengths == 0))
    return pl.Series(lists)


def load_token_cache(descriptions: pl.DataFrame, limits: Tokens, base: Path, directory: Path) -> TokenCache:
    """The cache in `directory`, rebuilt first where it is absent, damaged, or made from other texts or settings."""
    reason = _why_unusable(directory, cache_fingerprint(descriptions, limits, base))
    if reason:
        logger.warning("Rebuilding the token cache in %s: %s", directory, reason)
        return build_token_cache(descriptions, limits, base, directory)[0]
    frame = pl.read_parquet(directory / "tokens.parquet")
    return TokenCache({name: _from_series(frame[name]) for name in CHANNELS})


def _from_series(column: pl.Series) -> Ragged:
    lengths = column.list.len().fill_null(0).to_numpy()
    return Ragged(
        column.drop_nulls().explode().to_numpy().astype(np.int32),
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
