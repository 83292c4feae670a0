"""The short texts of an epoch: which are read in which batch, and what of each one's code is left out meanwhile."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from naics_pipeline.taxonomy.text import unseen_within
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, tokenize
from naics_pipeline.text_model.training.inputs import EXAMPLE, SENTENCE, TITLE, TrainingInputs
from naics_pipeline.text_model.training.variations import Variations, vary

# Texts are sorted by length inside blocks of so many batches: a batch then holds texts of like length, yet any text may
# meet any other.
BATCHES_PER_BLOCK = 16
_OWN_CHANNEL = {TITLE: CHANNELS.index("title"), SENTENCE: CHANNELS.index("description")}


@dataclass(frozen=True)
class QueryEpoch:
    """The short texts of an epoch, made-up ones after those of the table, and the batches they are read in."""

    tokens: Ragged
    code: np.ndarray
    examples: np.ndarray
    variations: Variations
    batches: list[np.ndarray]


def draw_texts(
    inputs: TrainingInputs,
    queries: np.ndarray,
    *,
    known: int,
    made_up: int,
    per_batch: int,
    limit: int,
    generator: np.random.Generator,
) -> QueryEpoch:
    """An epoch's texts in batches of like length, in random order.

    Args:
        queries: rows of the short texts that training may read.
        known, made_up: how many of them are read, and how many are made of examples beside them.
        limit: longest sequence of tokens.
    """
    short = inputs.short
    rows = generator.permutation(queries)[:known]
    examples = queries[short.kind[queries] == EXAMPLE]
    texts = [short.texts[row] for row in examples]
    variations = vary(texts, short.code[examples], made_up, generator)
    variations = _without_unseen(variations, texts, inputs.index_entries)
    tokens = Ragged.joined([short.tokens, tokenize(inputs.tokenizer, variations.texts, limit)])
    rows = generator.permutation(np.concatenate([rows, len(short.kind) + np.arange(len(variations.texts))]))
    block = np.arange(len(rows)) // (per_batch * BATCHES_PER_BLOCK)
    rows = rows[np.lexsort((tokens.lengths[rows], block))]
    batches = [rows[start : start + per_batch] for start in range(0, len(rows), per_batch)]
    order = generator.permutation(len(batches))
    return QueryEpoch(
        tokens=tokens,
        code=np.concatenate([short.code, variations.code]),
        examples=examples,
        variations=variations,
        batches=[batches[number] for number in order],
    )


def query_arrays(
    inputs: TrainingInputs, title_again: np.ndarray, epoch: QueryEpoch, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """What a batch says of its queries.

    Args:
        title_again: `ShortTexts.title_again`.
        rows: one of the epoch's batches.
    """
    short = inputs.short
    known = rows < len(short.kind)
    texts = epoch.tokens.taken(rows)
    kind = np.where(known, short.kind[np.where(known, rows, 0)], EXAMPLE)
    # The examples that a query is, or is made of: left out of its code's point where that query is scored.
    made = np.flatnonzero(np.isin(epoch.variations.part_of, rows - len(short.kind)))
    place = np.full(len(epoch.variations.texts), -1)
    place[rows[~known] - len(short.kind)] = np.flatnonzero(~known)
    own = np.flatnonzero(known & (kind == EXAMPLE))
    again = np.where(known, title_again[np.where(known, rows, 0)], -1)
    title = np.flatnonzero((again >= 0) & (kind == TITLE))
    channel = np.select([kind == name for name in _OWN_CHANNEL], list(_OWN_CHANNEL.values()), -1)
    channel[(again >= 0) & (kind == EXAMPLE)] = _OWN_CHANNEL[TITLE]
    return {
        "query_values": texts.values,
        "query_offsets": texts.offsets,
        "query_row": np.where(known, rows, -1),
        "query_code": epoch.code[rows],
        "query_under": np.where(known, short.under[np.where(known, rows, 0)], -1),
        "left_channel": channel,
        "left_row": np.concatenate([rows[own], again[title], epoch.examples[epoch.variations.row[made]]]),
        "itself_row": np.concatenate([rows[known], again[again >= 0], epoch.examples[epoch.variations.row[made]]]),
        "itself_of": np.concatenate(
            [np.flatnonzero(known), np.flatnonzero(again >= 0), place[epoch.variations.part_of[made]]]
        ),
        "left_of": np.concatenate([own, title, place[epoch.variations.part_of[made]]]),
    }


def no_texts() -> QueryEpoch:
    """Of an epoch that reads none."""
    none = np.zeros(0, np.int64)
    return QueryEpoch(Ragged.from_lists([]), none, none, Variations([], none, none, none), [])


def _without_unseen(variations: Variations, examples: list[str], entries: pl.DataFrame) -> Variations:
    """A text that holds an unseen entry, as "Farming, tomato" turned round may, gives way to its first example."""
    made = pl.DataFrame({"text": variations.texts}, schema={"text": pl.String}).with_row_index("number")
    texts = list(variations.texts)
    for number in unseen_within(made, "text", entries)["number"].unique():
        texts[number] = examples[variations.row[np.searchsorted(variations.part_of, number)]]
    return replace(variations, texts=texts)
