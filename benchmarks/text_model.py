"""The text model at full size: the token cache, and what it costs to read the texts of one batch."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.data import texts
from benchmarks.measure import Row, Work
from naics_pipeline.settings import Model, Tokens
from naics_pipeline.text_model.base import load_base, load_tokenizer, locate
from naics_pipeline.text_model.encoder import ChannelEncoder
from naics_pipeline.text_model.tokens import CHANNELS, build_token_cache

BASE = "all-MiniLM-L6-v2"
PAIRS, NEGATIVES = 32, 16
NAIVE_PAIRS = 1

ROWS = [
    Row("token cache of all codes", "to_token_cache"),
    Row(f"texts of {PAIRS} pairs with {NEGATIVES} negatives, forward and backward", "encode_distinct", "encode_rows"),
]


def to_token_cache(directory: Path) -> Work:
    frame = texts()

    def work() -> None:
        build_token_cache(frame, Tokens(), locate(BASE), directory / "token_cache")

    return work


def _batch(frame: pl.DataFrame) -> np.ndarray:
    """Indices of the codes of a batch, drawn at random: (pairs, anchor, positive and negatives)."""
    return np.random.default_rng(0).integers(0, frame.height, (PAIRS, 2 + NEGATIVES))


def encode_distinct(directory: Path) -> Work:
    """Each distinct code once, its channels by length, absent ones not at all."""
    frame = texts()
    cache, _ = build_token_cache(frame, Tokens(), locate(BASE), directory)
    encoder = ChannelEncoder(locate(BASE), Model()).train()
    rows = np.unique(_batch(frame))

    def work() -> None:
        for channel in CHANNELS:
            there = rows[cache.channels[channel].lengths[rows] > 0]
            encoder.encode(channel, cache.channels[channel], there, 8192).sum().backward()

    return work


def encode_rows(directory: Path) -> tuple[Work, float]:
    """The published way: every row and every channel of it, padded to 512 tokens, with a base for each."""
    frame = texts()
    tokenizer = load_tokenizer(locate(BASE))
    bases = [load_base(locate(BASE)).train().requires_grad_(True) for _ in CHANNELS]
    rows = _batch(frame)[:NAIVE_PAIRS].ravel()

    def work() -> None:
        for channel, base in zip(CHANNELS, bases, strict=True):
            words = frame[channel].gather(rows).fill_null("").to_list()
            batch = tokenizer(words, padding="max_length", truncation=True, max_length=512, return_tensors="pt")
            torch.sum(base(**batch).last_hidden_state.mean(1)).backward()

    return work, NAIVE_PAIRS / PAIRS
