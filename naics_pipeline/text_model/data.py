"""What a text model trains on: the texts of codes and queries as tokens or hidden states, and an epoch's batches."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.utils.data import IterableDataset

from naics_pipeline.settings import Settings, Training
from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.encoder import ChannelEncoder, hidden_states
from naics_pipeline.text_model.sampling import NegativeSampler, Pairs, epoch_batches, held_out_pairs, pair_mask
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, cache_fingerprint, load_token_cache, tokenize

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingInputs:
    """All that training reads.

    Attributes:
        tree: the taxonomy.
        excluded: (N, N) bool, symmetric: either code cites the other.
        channels: by channel, token ids or hidden states of every code's text.
        present: (N, 4) bool, which channels a code has.
        queries: token ids or hidden states of Q train-split entries and activity phrases.
        query_code: (Q,) int64, index of the code each belongs to.
        query_under: (Q,) int64, index of the code that a phrase warns of, -1 for entries.
        query_held_out: (Q,) bool, queries kept for validation.
    """

    tree: Tree
    excluded: np.ndarray
    channels: dict[str, Ragged]
    present: np.ndarray
    queries: Ragged
    query_code: np.ndarray
    query_under: np.ndarray
    query_held_out: np.ndarray


def load_inputs(
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    phrases: pl.DataFrame,
    settings: Settings,
    *,
    token_cache: Path,
    hidden_cache: Path,
    encoder: ChannelEncoder,
) -> TrainingInputs:
    """Reads texts and tree; computes hidden states below the trainable blocks once, where there are any.

    Args:
        phrases: activity phrases of cross-reference statements (phrase, code, under).
        token_cache, hidden_cache: directories; rebuilt where absent or stale.
    """
    base = locate(settings.model.base, settings.model.base_sha256)
    tree = Tree.from_codes(descriptions["code"].to_list())
    cache = load_token_cache(descriptions, settings.tokens, base, token_cache)
    queries = query_table(index_entries, phrases, settings.training.validation_fraction)
    texts = dict(cache.channels)
    texts["query"] = tokenize(load_tokenizer(base), queries["text"].to_list(), settings.tokens.query)
    if settings.model.trainable_blocks is not None:
        key = fingerprint(
            cache_fingerprint(descriptions, settings.tokens, base),
            queries["text"].to_list(),
            base / "model.safetensors",
            settings.model.trainable_blocks,
        )
        texts = _cached_states(encoder, texts, hidden_cache, key, settings.training.tokens_per_group)
    under = queries["under"].to_list()
    return TrainingInputs(
        tree=tree,
        excluded=excluded_matrix(descriptions, tree),
        channels={name: texts[name] for name in CHANNELS},
        present=cache.present,
        queries=texts["query"],
        query_code=tree.position(queries["code"].to_list()),
        query_under=np.array([-1 if code is None else tree.position([code])[0] for code in under], dtype=np.int64),
        query_held_out=queries["held_out"].to_numpy(),
    )


def query_table(index_entries: pl.DataFrame, phrases: pl.DataFrame, validation_fraction: float) -> pl.DataFrame:
    """A row per training query: text, code, under (null for entries), held_out (kept for validation, by a hash)."""
    entries = index_entries.filter(pl.col("split") == "train").select(
        "code", text="entry", under=pl.lit(None, dtype=pl.String)
    )
    table = pl.concat([entries, phrases.select("code", text="phrase", under="under")])
    share = [
        int(fingerprint(code, text)[:8], 16) % 10_000 for code, text in zip(table["code"], table["text"], strict=True)
    ]
    return table.with_columns(held_out=pl.Series(share, dtype=pl.Int64) < round(10_000 * validation_fraction))


def _cached_states(
    encoder: ChannelEncoder, texts: dict[str, Ragged], directory: Path, key: str, tokens_per_group: int
) -> dict[str, Ragged]:
    """Hidden states of all texts from the cache named by `key`, computed and written where it is not there."""
    place = directory / key
    if not place.is_dir():
        logger.info("Computing hidden states of %d tokens once", sum(len(ragged.values) for ragged in texts.values()))
        with replacing(place) as temporary:
            temporary.mkdir(parents=True)
            for name, ragged in texts.items():
                np.save(temporary / f"{name}.npy", hidden_states(encoder, ragged, tokens_per_group).values)
        for other in directory.iterdir():
            # Half a gigabyte each, and of texts or a base that are no longer used.
            if other != place and other.is_dir():
                shutil.rmtree(other)
    return {
        # An empty file cannot be mapped.
        name: Ragged(np.load(place / f"{name}.npy", mmap_mode="r" if len(ragged.values) else None), ragged.offsets)
        for name, ragged in texts.items()
    }


class StageBatches(IterableDataset[Batch]):
    """The batches of one epoch of a stage, drawn by seed and epoch alone."""

    def __init__(self, inputs: TrainingInputs, stage: Stage, settings: Training, seed: int) -> None:
        self.inputs, self.stage, self.settings, self.seed = inputs, stage, settings, seed
        self.current_epoch: Callable[[], int] = lambda: 0
        held_out = held_out_pairs(inputs.tree, settings.validation_fraction)
        allowed = pair_mask(stage, inputs.tree)
        self.training_pairs, self.validation_pairs = allowed & ~held_out, allowed & held_out
        self.sampler = NegativeSampler(inputs.tree, inputs.excluded, stage.quotas)
        self.training_queries = np.flatnonzero(~inputs.query_held_out)

    def __len__(self) -> int:
        positives = self.training_pairs.sum(axis=1)
        pairs = int(np.minimum(positives, self.stage.max_positives or positives.max()).sum())
        return -(-min(pairs, self.settings.pairs_per_epoch or pairs) // self.settings.pairs_per_batch)

    def __iter__(self) -> Iterator[Batch]:
        generator = np.random.default_rng([self.seed, self.current_epoch()])
        batches = self._pairs(self.training_pairs, self.sampler, self.settings.pairs_per_epoch, generator)
        size = min(self.settings.queries_per_batch, len(self.training_queries))
        rounds = -(-size * len(self) // max(1, len(self.training_queries)))
        queries = np.concatenate([generator.permutation(self.training_queries) for _ in range(max(1, rounds))])
        for position, pairs in enumerate(batches):
            yield self._batch(pairs, queries[position * size : (position + 1) * size])

    def validation(self, pairs: int = 512) -> Batch:
        """The held-out pairs, at most `pairs` of them and the same each time, with all held-out queries."""
        generator = np.random.default_rng([self.seed, 2**31])
        sampler = NegativeSampler(self.inputs.tree, self.inputs.excluded, self.stage.quotas)
        drawn = list(self._pairs(self.validation_pairs, sampler, pairs, generator))
        joined = Pairs(
            *(
                np.concatenate([getattr(p, name) for p in drawn]) if drawn else np.zeros(shape, np.int64)
                for name, shape in (
                    ("anchor", 0),
                    ("positive", 0),
                    ("negative", (0, self.stage.k_negatives)),
                    ("hardness", 0),
                )
            )
        )
        return self._batch(joined, np.flatnonzero(self.inputs.query_held_out))

    def _pairs(
        self, allowed: np.ndarray, sampler: NegativeSampler, limit: int | None, generator: np.random.Generator
    ) -> Iterator[Pairs]:
        size = self.settings.pairs_per_batch
        return epoch_batches(
            self.stage, allowed, sampler, pairs_per_batch=size, pairs_per_epoch=limit, generator=generator
        )

    def _batch(self, pairs: Pairs, queries: np.ndarray) -> Batch:
        live = np.concatenate([pairs.anchor, pairs.positive, pairs.negative.T.ravel()])
        distinct, first = np.unique(live, return_index=True)
        # Anchors first: where only some codes are encoded afresh, those that more of the loss hangs on.
        live = distinct[np.argsort(first)][: self.settings.live_codes]
        arrays = {
            "anchor": pairs.anchor,
            "positive": pairs.positive,
            "negative": pairs.negative,
            "codes": distinct,
            "live": live,
            "query": queries,
            "live_query": queries[: self.settings.live_queries],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(values)).long() for name, values in arrays.items()}
