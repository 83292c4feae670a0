"""What a text model trains on: the texts of codes and queries as tokens or hidden states, and the tree of the codes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from naics_pipeline.files import fingerprint
from naics_pipeline.settings import Settings
from naics_pipeline.taxonomy.text import VALIDATION, description_sentences, normalise
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.tokens import (
    CHANNELS,
    LONG_CHANNELS,
    Ragged,
    TokenCache,
    load_token_cache,
    tokenize,
)
from naics_pipeline.text_model.training.hidden_cache import HiddenCache

TITLE, EXAMPLE, PHRASE, SENTENCE = range(4)
KIND_NAMES = ("title", "entry", "phrase", "sentence")


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
        base_short: (M, width) what the base itself says of them; zeros where nothing asks for it.
        validation: token ids of the validation entries.
        validation_code: (V,) int64, index of the code that each belongs to.
        left_out: (N,) bool, codes that no training sees: neither their texts nor their pairs.
        tokenizer: of the base model, for texts that an epoch makes up.
        index_entries: all of them, of which the unseen ones are in no text that an epoch makes up.
        cache: what has been read with weights that rest.
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
    cache: HiddenCache


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
    kept = HiddenCache(hidden_cache, base, settings.training.tokens_per_group)
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
        cache=kept,
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
