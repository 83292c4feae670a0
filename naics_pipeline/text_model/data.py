"""What a text model trains on: texts of codes and queries as tokens or hidden states, and an epoch's batches."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.utils.data import IterableDataset

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Settings, Training
from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.taxonomy.text import VALIDATION, description_sentences, normalise, unseen_within
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.encoder import hidden_states
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.sampling import NegativeSampler, Pairs, epoch_batches, pair_mask
from naics_pipeline.text_model.tokens import (
    CHANNELS,
    LONG_CHANNELS,
    Ragged,
    TokenCache,
    load_token_cache,
    tokenize,
)
from naics_pipeline.text_model.variations import Variations, vary

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
TITLE, EXAMPLE, PHRASE, SENTENCE = range(4)
KIND_NAMES = ("title", "entry", "phrase", "sentence")
# Texts are sorted by length inside blocks of so many batches: a batch then holds texts of like length, yet any text may
# meet any other.
BATCHES_PER_BLOCK = 16
VALIDATION_PAIRS = 512
_OWN_CHANNEL = {TITLE: CHANNELS.index("title"), SENTENCE: CHANNELS.index("description")}


@dataclass(frozen=True)
class ShortTexts:
    """M texts that the short-text adapter reads: the N titles first, then examples, phrases and sentences.

    The examples are the ones that a code's examples channel consists of: query and channel are one table.

    Attributes:
        texts: M strings.
        tokens: a row per text.
        kind: (M,) TITLE, EXAMPLE, PHRASE or SENTENCE.
        code: (M,) int64, index of the code that each speaks of.
        under: (M,) int64, of a phrase the index of the code whose exclusion it is, else -1.
    """

    texts: list[str]
    tokens: Ragged
    kind: np.ndarray
    code: np.ndarray
    under: np.ndarray

    @property
    def examples(self) -> np.ndarray:
        """(E,) rows of the examples."""
        return np.flatnonzero(self.kind == EXAMPLE)

    def title_again(self) -> np.ndarray:
        """(M,) int64: of an example that equals its code's title, and of that title, the row of the other; else -1."""
        again = np.full(len(self.texts), -1, dtype=np.int64)
        for row in self.examples:
            title = self.code[row]
            if normalise(self.texts[row]) == normalise(self.texts[title]):
                again[[row, title]] = title, row
        return again


@dataclass(frozen=True)
class TrainingInputs:
    """All that training reads.

    Attributes:
        tree: the taxonomy.
        excluded: (N, N) bool, symmetric: either code cites the other.
        long: by long channel, token ids or hidden states of every code's text.
        present: (N, 4) bool, which channels a code has.
        short: every short text.
        base_short: (M, width) what the base itself says of them; zeros where it has no share.
        validation: token ids of the validation entries.
        validation_code: (V,) int64, index of the code that each belongs to.
        left_out: (N,) bool, codes that no training sees: neither their texts nor their pairs.
        tokenizer: of the base model, for texts that an epoch makes up.
        index_entries: all of them, of which the unseen ones are in no text that an epoch makes up.
    """

    tree: Tree
    excluded: np.ndarray
    long: dict[str, Ragged]
    present: np.ndarray
    short: ShortTexts
    base_short: torch.Tensor
    validation: Ragged
    validation_code: np.ndarray
    left_out: np.ndarray
    tokenizer: Any
    index_entries: pl.DataFrame


def load_inputs(
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    phrases: pl.DataFrame,
    settings: Settings,
    *,
    token_cache: Path,
    hidden_cache: Path,
    model: TextModel,
) -> TrainingInputs:
    """Reads texts and tree; computes once, and keeps, what no training changes.

    Args:
        phrases: activity phrases of cross-reference statements (phrase, code, under).
        token_cache, hidden_cache: directories; rebuilt where absent or stale.
    """
    base = locate(settings.model.base, settings.model.base_sha256)
    tokenizer, limit = load_tokenizer(base), settings.tokens.short
    tree = Tree.from_codes(descriptions["code"].to_list())
    cache = load_token_cache(descriptions, settings.tokens, base, token_cache)
    sentences = description_sentences(descriptions, index_entries)
    short = _short_texts(descriptions, phrases, sentences, cache, tree, tokenizer, limit)
    kept = _Kept(hidden_cache, base, settings.training.tokens_per_group)
    long = {name: kept.long_texts(model, name, cache.channels[name]) for name in LONG_CHANNELS}
    base_short = kept.base_vectors(model, short.tokens)
    kept.forget_others()
    left_out = left_out_codes(tree, settings.training.left_out_fraction)
    unknown = pl.Series(tree.codes[left_out].tolist(), dtype=pl.String)
    validation = index_entries.filter(pl.col("split") == VALIDATION, ~pl.col("code").is_in(unknown.implode()))
    lengths = {name: ragged.lengths for name, ragged in cache.channels.items()}
    lengths["examples"] = np.bincount(cache.example_code, minlength=len(tree))
    return TrainingInputs(
        tree=tree,
        excluded=excluded_matrix(descriptions, tree),
        long=long,
        present=np.stack([lengths[name] > 0 for name in CHANNELS], axis=1),
        short=short,
        base_short=base_short,
        validation=tokenize(tokenizer, validation["entry"].to_list(), limit),
        validation_code=tree.position(validation["code"]).astype(np.int64),
        left_out=left_out,
        tokenizer=tokenizer,
        index_entries=index_entries,
    )


def _short_texts(
    descriptions: pl.DataFrame,
    phrases: pl.DataFrame,
    sentences: pl.DataFrame,
    cache: TokenCache,
    tree: Tree,
    tokenizer: Any,
    limit: int,
) -> ShortTexts:
    further = [*phrases["phrase"].to_list(), *sentences["sentence"].to_list()]
    examples = descriptions["examples"].drop_nulls().explode(empty_as_null=False).to_list()
    speaks_of = [np.arange(len(tree)), cache.example_code, *(tree.position(f["code"]) for f in (phrases, sentences))]
    under = np.full(sum(len(part) for part in speaks_of), -1, dtype=np.int64)
    begin = len(tree) + len(examples)
    under[begin : begin + phrases.height] = tree.position(phrases["under"])
    return ShortTexts(
        texts=[*descriptions["title"].to_list(), *examples, *further],
        tokens=Ragged.joined([cache.channels["title"], cache.examples, tokenize(tokenizer, further, limit)]),
        kind=np.repeat([TITLE, EXAMPLE, PHRASE, SENTENCE], [len(part) for part in speaks_of]),
        code=np.concatenate(speaks_of).astype(np.int64),
        under=under,
    )


def left_out_codes(tree: Tree, fraction: float) -> np.ndarray:
    """(N,) bool: a share of the deepest codes, chosen by a hash of the code alone.

    With them go the codes above that hold no other: an industry of one national industry has its title and its text.
    """
    share = np.array([int(fingerprint(code)[:8], 16) % 10_000 for code in tree.codes.tolist()])
    deepest = tree.level == tree.level.max()
    chosen = deepest & (share < round(fraction * 10_000))
    left_out: np.ndarray = _with_all_above(tree, chosen) & ~_with_all_above(tree, deepest & ~chosen)
    return left_out


def _with_all_above(tree: Tree, codes: np.ndarray) -> np.ndarray:
    """(N,) bool: these codes, (N,) bool, and every code that holds one of them."""
    above = tree.ancestors()[codes]
    found = np.zeros(len(tree), dtype=np.bool_)
    found[above[above >= 0]] = True
    return found


class _Kept:
    """What the frozen part of the model says of texts, as files that serve every stage: a hundred megabytes in all."""

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


@dataclass(frozen=True)
class Epoch:
    """The short texts of an epoch, made-up ones after those of the table, and the batches they are read in."""

    tokens: Ragged
    code: np.ndarray
    examples: np.ndarray
    variations: Variations
    batches: list[np.ndarray]


class StageBatches(IterableDataset[Batch]):
    """The batches of one epoch of a stage, drawn by seed and epoch alone.

    An epoch is every short text once, in random order, with pairs of codes beside them as long as there are texts; it
    is every pair that the stage draws where the stage has no query term.

    Raises:
        SettingsError: no term of the stage reads a text or a pair.
    """

    def __init__(self, inputs: TrainingInputs, stage: Stage, settings: Settings) -> None:
        self.inputs, self.stage, self.settings, self.seed = inputs, stage, settings.training, settings.seed
        self.current_epoch: Callable[[], int] = lambda: 0
        objective = stage.weigh(settings.objective)
        self.reads_queries = objective.query > 0
        self.draws_pairs = objective.contrastive > 0 or objective.hierarchy > 0
        if not self.reads_queries and not self.draws_pairs:
            raise SettingsError(
                f"stage {stage.name}: contrastive, query and hierarchy all have weight 0, so it would read nothing. "
                "Give one of them a weight, in the stage's file or in the profile."
            )
        self.frozen = adapter_rate(stage, self.settings) == 0
        self.limit = settings.tokens.short
        self.title_again = inputs.short.title_again()
        trained = ~inputs.left_out
        self.hashed = held_out_pairs(inputs.tree, self.settings.validation_fraction)
        self.hashed &= trained[:, None] & trained
        self.held_out = self.hashed | ~(trained[:, None] & trained)
        self.queries = np.flatnonzero(
            trained[inputs.short.code] & (trained[inputs.short.under] | (inputs.short.under < 0))
        )
        allowed = pair_mask(stage, inputs.tree) if self.draws_pairs else np.zeros_like(self.held_out)
        self.training_pairs, self.validation_pairs = allowed & ~self.held_out, allowed & self.hashed
        self.sampler = self._sampler()

    def _sampler(self) -> NegativeSampler:
        quotas = self.stage.quotas if self.draws_pairs else {}
        return NegativeSampler(self.inputs.tree, self.inputs.excluded, quotas, self.held_out)

    def _size_of_epoch(self) -> tuple[int, int]:
        """How many texts of the table an epoch reads, and how many it makes up."""
        known = min(len(self.queries), self.settings.queries_per_epoch or len(self.queries))
        examples = (self.inputs.short.kind[self.queries] == EXAMPLE).sum() * known / max(1, len(self.queries))
        return known, 0 if self.frozen else round(self.settings.variations * examples)

    def __len__(self) -> int:
        if self.reads_queries:
            return -(-sum(self._size_of_epoch()) // self.settings.queries_per_batch)
        positives = self.training_pairs.sum(axis=1)
        pairs = int(np.minimum(positives, self.stage.max_positives or positives.max()).sum())
        return -(-pairs // self.settings.pairs_per_batch)

    def __iter__(self) -> Iterator[Batch]:
        generator = np.random.default_rng([self.seed, self.current_epoch()])
        pairs = self._endless_pairs(generator)
        if self.reads_queries:
            epoch = self._epoch(generator)
            for rows in epoch.batches:
                yield self._queries(epoch, rows) | self._codes(next(pairs))
        else:
            for _ in range(len(self)):
                yield self._queries(_no_queries(), np.zeros(0, np.int64)) | self._codes(next(pairs))

    def validation(self) -> Batch:
        """Held-out pairs with negatives, at most `VALIDATION_PAIRS` of them, the same each time."""
        generator = np.random.default_rng([self.seed, 2**31])
        drawn = next(self._pairs(self.validation_pairs, self._sampler(), VALIDATION_PAIRS, generator), self._no_pairs())
        return self._codes(drawn)

    def _endless_pairs(self, generator: np.random.Generator) -> Iterator[Pairs]:
        while self.training_pairs.any():
            yield from self._pairs(self.training_pairs, self.sampler, self.settings.pairs_per_batch, generator)
        while True:
            yield self._no_pairs()

    def _pairs(
        self, allowed: np.ndarray, sampler: NegativeSampler, size: int, generator: np.random.Generator
    ) -> Iterator[Pairs]:
        return epoch_batches(self.stage, allowed, sampler, pairs_per_batch=size, generator=generator)

    def _no_pairs(self) -> Pairs:
        none = np.zeros(0, np.int64)
        wide = np.zeros((0, self.stage.k_negatives), np.int64)
        return Pairs(none, none, wide, wide)

    def _epoch(self, generator: np.random.Generator) -> Epoch:
        short = self.inputs.short
        known, made_up = self._size_of_epoch()
        rows = generator.permutation(self.queries)[:known]
        examples = self.queries[short.kind[self.queries] == EXAMPLE]
        texts = [short.texts[row] for row in examples]
        variations = vary(texts, short.code[examples], made_up, generator)
        variations = _without_unseen(variations, texts, self.inputs.index_entries)
        tokens = Ragged.joined([short.tokens, tokenize(self.inputs.tokenizer, variations.texts, self.limit)])
        rows = generator.permutation(np.concatenate([rows, len(short.kind) + np.arange(len(variations.texts))]))
        size = self.settings.queries_per_batch
        block = np.arange(len(rows)) // (size * BATCHES_PER_BLOCK)
        rows = rows[np.lexsort((tokens.lengths[rows], block))]
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        order = generator.permutation(len(batches))
        return Epoch(
            tokens=tokens,
            code=np.concatenate([short.code, variations.code]),
            examples=examples,
            variations=variations,
            batches=[batches[number] for number in order],
        )

    def _queries(self, epoch: Epoch, rows: np.ndarray) -> Batch:
        short = self.inputs.short
        known = rows < len(short.kind)
        texts = epoch.tokens.taken(rows)
        kind = np.where(known, short.kind[np.where(known, rows, 0)], EXAMPLE)
        # The examples that a query is, or is made of: left out of its code's point where that query is scored.
        made = np.flatnonzero(np.isin(epoch.variations.part_of, rows - len(short.kind)))
        place = np.full(len(epoch.variations.texts), -1)
        place[rows[~known] - len(short.kind)] = np.flatnonzero(~known)
        own = np.flatnonzero(known & (kind == EXAMPLE))
        again = np.where(known, self.title_again[np.where(known, rows, 0)], -1)
        title = np.flatnonzero((again >= 0) & (kind == TITLE))
        channel = np.select([kind == name for name in _OWN_CHANNEL], list(_OWN_CHANNEL.values()), -1)
        channel[(again >= 0) & (kind == EXAMPLE)] = _OWN_CHANNEL[TITLE]
        return _tensors(
            query_values=texts.values,
            query_offsets=texts.offsets,
            query_row=np.where(known, rows, -1),
            query_code=epoch.code[rows],
            query_under=np.where(known, short.under[np.where(known, rows, 0)], -1),
            left_channel=channel,
            left_row=np.concatenate([rows[own], again[title], epoch.examples[epoch.variations.row[made]]]),
            left_of=np.concatenate([own, title, place[epoch.variations.part_of[made]]]),
        )

    def _codes(self, pairs: Pairs) -> Batch:
        live = np.concatenate([pairs.anchor, pairs.positive, pairs.negative.T.ravel()])
        distinct, first = np.unique(live, return_index=True)
        # Anchors first: where only some codes are read afresh, those that more of the loss hangs on.
        live = distinct[np.argsort(first)][: self.settings.live_codes]
        return _tensors(
            anchor=pairs.anchor, positive=pairs.positive, negative=pairs.negative, codes=distinct, live=live
        )


def adapter_rate(stage: Stage, settings: Training) -> float:
    """Learning rate of the adapters in a stage, as a multiple of the stage's."""
    return settings.adapter_rate if stage.adapter_rate is None else stage.adapter_rate


def _without_unseen(variations: Variations, examples: list[str], entries: pl.DataFrame) -> Variations:
    """A text that holds an unseen entry, as "Farming, tomato" turned round may, gives way to its first example."""
    made = pl.DataFrame({"text": variations.texts}, schema={"text": pl.String}).with_row_index("number")
    texts = list(variations.texts)
    for number in unseen_within(made, "text", entries)["number"].unique():
        texts[number] = examples[variations.row[np.searchsorted(variations.part_of, number)]]
    return replace(variations, texts=texts)


def _no_queries() -> Epoch:
    none = np.zeros(0, np.int64)
    return Epoch(Ragged.from_lists([]), none, none, Variations([], none, none, none), [])


def _tensors(**arrays: np.ndarray) -> Batch:
    return {name: torch.from_numpy(np.ascontiguousarray(values)).long() for name, values in arrays.items()}
