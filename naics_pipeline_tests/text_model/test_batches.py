"""An epoch's batches: every text once, nothing unseen, like lengths together, and the same for the same seed."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Settings, Tokens
from naics_pipeline.taxonomy.text import TRAIN, description_sentences, unseen_within
from naics_pipeline.text_model.training import queries
from naics_pipeline.text_model.training.batches import Plan, validation_batch
from naics_pipeline.text_model.training.inputs import EXAMPLE, PHRASE, SENTENCE, TITLE, TrainingInputs, left_out_codes
from naics_pipeline_tests.text_model.small import (
    STAGE,
    as_numpy,
    example_set,
    first_epoch,
    left_rows,
    rows_of,
    settings_of,
    whole,
)

SHORT_ALONE = STAGE.model_copy(update={"contrastive": 0.0, "hierarchy": 0.0})


@pytest.fixture(scope="module")
def settings(tiny_base: Path) -> Settings:
    """Whole epochs, of texts that are not cut off."""
    return whole(settings_of(tiny_base)).model_copy(update={"tokens": Tokens()})


@pytest.fixture(scope="module")
def inputs(inputs_of, settings, whole_sample) -> TrainingInputs:
    return inputs_of(settings, whole_sample)


def test_an_epoch_reads_every_text_once_and_made_up_ones_beside_them(inputs, settings) -> None:
    drawn = [as_numpy(batch) for batch in first_epoch(inputs, STAGE, settings)]
    assert len(drawn) == len(Plan.of(inputs, STAGE, settings))
    sizes = sorted(len(batch["query_row"]) for batch in drawn)
    assert set(sizes[1:]) == {32}
    rows = np.concatenate([batch["query_row"] for batch in drawn])
    assert sorted(rows[rows >= 0]) == list(range(len(inputs.short.kind)))
    assert (rows < 0).sum() == round(0.25 * len(inputs.short.examples))
    tokens = dict(zip(rows.tolist(), (row for batch in drawn for row in rows_of(batch)), strict=True))
    for row in (0, len(rows[rows >= 0]) // 2, len(rows[rows >= 0]) - 1):
        assert tokens[row] == tuple(inputs.short.tokens.taken(np.array([row])).values)
    # Each query comes with its own code, and a phrase with the code whose exclusion it is.
    for batch in drawn[:5]:
        known = batch["query_row"] >= 0
        assert (batch["query_code"][known] == inputs.short.code[batch["query_row"][known]]).all()
        assert (batch["query_under"][known] == inputs.short.under[batch["query_row"][known]]).all()
        assert (batch["query_under"][~known] == -1).all()


def test_batches_hold_texts_of_like_length_in_random_order(inputs, settings) -> None:
    drawn = [as_numpy(batch) for batch in first_epoch(inputs, STAGE, settings)]
    lengths = [np.diff(batch["query_offsets"]) for batch in drawn]
    order = np.random.default_rng(0).permutation(np.concatenate(lengths))
    at_random = [order[start : start + 32] for start in range(0, len(order), 32)]

    def padding(batches: list[np.ndarray]) -> int:
        return int(sum(len(batch) * batch.max() - batch.sum() for batch in batches))

    assert padding(lengths) < 0.4 * padding(at_random)
    # Yet an epoch does not run from the shortest to the longest.
    means = np.array([batch.mean() for batch in lengths])
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_others(inputs, settings) -> None:
    def drawn(seed: int, epoch: int) -> list[dict[str, np.ndarray]]:
        seeded = settings.model_copy(update={"seed": seed})
        return [as_numpy(batch) for batch in first_epoch(inputs, STAGE, seeded, epoch)]

    first, again, next_one, other = drawn(1, 0), drawn(1, 0), drawn(1, 1), drawn(2, 0)
    for left, right in zip(first, again, strict=True):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in left)
    for strange in (next_one, other):
        assert not np.array_equal(first[0]["query_values"], strange[0]["query_values"])
        assert not np.array_equal(first[0]["anchor"], strange[0]["anchor"])
    # What an epoch makes up is made up anew in the next.
    texts = [{row for batch in epoch for row in rows_of(batch)} for epoch in (first, next_one)]
    assert len(texts[1] - texts[0]) > 100


def test_no_unseen_entry_is_in_any_batch(inputs, settings, sample_entries) -> None:
    unseen = sample_entries.filter(pl.col("split") != TRAIN)["entry"].to_list()
    tokenizer = AutoTokenizer.from_pretrained(settings.model.base)
    forbidden = {tuple(row) for row in tokenizer(unseen)["input_ids"]}
    trained = sample_entries.filter(split=TRAIN)["entry"].to_list()
    assert len(forbidden) > 400
    read = {row for batch in first_epoch(inputs, STAGE, settings) for row in rows_of(batch)}
    assert not read & forbidden
    # The comparison would find one: it finds those that belong there.
    assert {tuple(row) for row in tokenizer(trained)["input_ids"]} <= read


def test_a_made_up_text_that_would_hold_an_unseen_entry_gives_way(inputs, settings, monkeypatch) -> None:
    entries = pl.DataFrame({"code": ["11"] * 2, "entry": ["Zebra racing", "held"], "split": ["held_out", "train"]})
    inputs = dataclasses.replace(inputs, index_entries=entries)
    whole_vary = queries.vary

    def vary(examples, code, count, generator):
        made = whole_vary(examples, code, count, generator)
        texts = ["We provide ZEBRA racing; other things", "Zebra-racing", "held", *made.texts[3:]]
        return dataclasses.replace(made, texts=texts)

    monkeypatch.setattr(queries, "vary", vary)
    rows = np.arange(len(inputs.short.kind))
    sizes = {"known": 10, "made_up": 50, "per_batch": 32, "limit": 12}
    epoch = queries.draw_texts(inputs, rows, **sizes, generator=np.random.default_rng(0))
    assert not unseen_within(pl.DataFrame({"text": epoch.variations.texts}), "text", entries).height
    assert epoch.variations.texts[2] == "held"
    for number in (0, 1):
        parts = epoch.examples[epoch.variations.row[epoch.variations.part_of == number]]
        assert epoch.variations.texts[number] == inputs.short.texts[parts[0]]


def test_texts_are_titles_examples_phrases_and_sentences(
    inputs, sample_descriptions, sample_entries, whole_sample
) -> None:
    short, phrases = inputs.short, whole_sample["phrases"]
    texts = {kind: [short.texts[row] for row in np.flatnonzero(short.kind == kind)] for kind in range(4)}
    assert texts[TITLE] == sample_descriptions["title"].to_list()
    assert texts[EXAMPLE] == sample_descriptions["examples"].explode().drop_nulls().to_list()
    assert texts[PHRASE] == phrases["phrase"].to_list()
    sentences = description_sentences(sample_descriptions, sample_entries)
    assert texts[SENTENCE] == sentences["sentence"].to_list()
    assert min(len(part) for part in texts.values()) > 200
    codes = sample_descriptions["code"].to_numpy()
    rows = np.flatnonzero(short.kind == PHRASE)
    assert codes[short.code[rows]].tolist() == phrases["code"].to_list()
    assert codes[short.under[rows]].tolist() == phrases["under"].to_list()
    assert codes[short.code[short.kind == SENTENCE]].tolist() == sentences["code"].to_list()
    assert (short.under[short.kind != PHRASE] == -1).all()
    assert len(short.tokens) == len(short.kind)


def test_what_a_query_is_made_of_is_left_out_by_kind(inputs, settings) -> None:
    made_up = 0
    for batch in first_epoch(inputs, STAGE, settings):
        for position, row in enumerate(batch["query_row"].tolist()):
            left, channel = left_rows(batch, position), int(batch["left_channel"][position])
            kind = inputs.short.kind[row] if row >= 0 else None
            assert channel == {TITLE: 0, SENTENCE: 1}.get(kind, -1)
            if row >= 0:
                assert left == ([row] if kind == EXAMPLE else [])
                continue
            made_up += 1
            assert 1 <= len(left) <= 4
            assert len(set(left)) == len(left)
            assert set(left) <= set(example_set(inputs, int(batch["query_code"][position])))
    assert made_up > 100


def test_an_example_that_says_its_title_again_leaves_with_it(inputs, settings) -> None:
    short = inputs.short
    row = int(short.examples[7])
    title = int(short.code[row])
    texts = [*short.texts[:row], short.texts[title].upper() + ".", *short.texts[row + 1 :]]
    inputs = dataclasses.replace(inputs, short=dataclasses.replace(short, texts=texts))
    found = {}
    for batch in first_epoch(inputs, SHORT_ALONE, settings):
        for position, query in enumerate(batch["query_row"].tolist()):
            if query in (row, title):
                found[query] = left_rows(batch, position), int(batch["left_channel"][position])
    assert found == {row: ([row], 0), title: ([row], 0)}


@pytest.mark.parametrize(("limit", "variations"), [(100, 0.0), (100, 0.5), (None, 0.0), (10**9, 0.0)])
def test_the_size_of_an_epoch_is_that_of_the_settings(inputs, settings, limit, variations) -> None:
    sized = whole(settings, queries_per_epoch=limit, variations=variations)
    batches = first_epoch(inputs, SHORT_ALONE, sized)
    rows = np.concatenate([batch["query_row"].numpy() for batch in batches])
    known, share = min(limit or 10**9, len(inputs.short.kind)), (inputs.short.kind == EXAMPLE).mean()
    assert (rows >= 0).sum() == known
    assert len(set(rows[rows >= 0])) == known
    assert (rows < 0).sum() == round(variations * share * known)
    assert len(batches) == -(-len(rows) // 32)
    if limit == 100:
        later = np.concatenate([batch["query_row"].numpy() for batch in first_epoch(inputs, SHORT_ALONE, sized, 1)])
        assert len(set(rows.tolist()) & set(later.tolist())) < 50


def test_a_stage_of_short_text_draws_no_pair_and_one_of_pairs_no_text(inputs, settings) -> None:
    for batch in first_epoch(inputs, SHORT_ALONE, settings):
        assert len(batch["query_code"])
        assert not sum(len(batch[name]) for name in ("anchor", "positive", "negative", "codes", "live"))
    few = STAGE.model_copy(update={"query": 0.0, "neighbour": 0.0, "max_positives": 1})
    plan, drawn = Plan.of(inputs, few, settings), first_epoch(inputs, few, settings)
    assert len(drawn) == len(plan) > 10
    assert not sum(len(batch["query_code"]) + len(batch["query_values"]) for batch in drawn)
    anchors = np.concatenate([batch["anchor"].numpy() for batch in drawn])
    assert sorted(anchors) == np.flatnonzero(plan.training_pairs.any(axis=1)).tolist()


def test_a_stage_that_would_read_nothing_is_refused(inputs, settings) -> None:
    nothing = SHORT_ALONE.model_copy(update={"query": 0.0, "neighbour": 0.0})
    with pytest.raises(SettingsError, match="stage first: contrastive, query, hierarchy and rank all have weight 0"):
        Plan.of(inputs, nothing, settings)


def test_adapters_that_stay_need_no_made_up_text(inputs, settings) -> None:
    still = STAGE.model_copy(update={"adapter_rate": 0.0})
    rows = np.concatenate([b["query_row"].numpy() for b in first_epoch(inputs, still, settings)])
    assert (rows >= 0).all()


def test_no_training_pair_or_negative_is_held_out_and_validation_is(inputs, settings) -> None:
    plan = Plan.of(inputs, STAGE, settings)
    assert plan.hashed.sum() > 100
    pairs = set()
    for batch in (as_numpy(batch) for batch in first_epoch(inputs, STAGE, settings)):
        assert len(batch["anchor"]) > 0
        assert not plan.hashed[batch["anchor"], batch["positive"]].any()
        assert not plan.hashed[batch["anchor"][:, None], batch["negative"]].any()
        pairs |= set(zip(batch["anchor"].tolist(), batch["positive"].tolist(), strict=True))
        named = {*batch["anchor"].tolist(), *batch["positive"].tolist(), *batch["negative"].ravel().tolist()}
        assert set(batch["codes"].tolist()) == named
        assert set(batch["live"].tolist()) <= named
        assert len(batch["live"]) <= 40
    validation = as_numpy(validation_batch(plan))
    seen = set(zip(validation["anchor"].tolist(), validation["positive"].tolist(), strict=True))
    assert len(seen) > 10
    assert not seen & pairs
    assert plan.hashed[validation["anchor"], validation["positive"]].all()
    again = as_numpy(validation_batch(Plan.of(inputs, STAGE, settings)))
    assert all(np.array_equal(validation[name], again[name]) for name in validation)


def test_codes_left_out_are_in_no_batch(inputs_of, settings, whole_sample) -> None:
    left_out = whole(settings, left_out_fraction=0.2)
    inputs = inputs_of(left_out, whole_sample)
    gone = set(np.flatnonzero(inputs.left_out))
    tree = inputs.tree
    leaves = tree.level == 6
    assert 0.1 < (inputs.left_out & leaves).sum() / leaves.sum() < 0.3
    # A code above goes with the last code that it holds.
    below = [leaves & (tree.ancestors()[:, tree.level[code] - 2] == code) for code in range(len(tree))]
    assert inputs.left_out.tolist() == [bool(held.any() and inputs.left_out[held].all()) for held in below]
    assert inputs.left_out[~leaves].any()
    assert not set(inputs.validation_code.tolist()) & gone
    drawn = [as_numpy(batch) for batch in first_epoch(inputs, STAGE, left_out)]
    for batch in drawn:
        for name in ("anchor", "positive", "negative", "codes", "live", "query_code", "query_under"):
            assert not set(batch[name].ravel().tolist()) & gone, name
        assert not set(inputs.short.code[batch["left_row"]]) & gone
    validation = as_numpy(validation_batch(Plan.of(inputs, STAGE, left_out)))
    assert (
        not {code for name in ("anchor", "positive", "negative") for code in validation[name].ravel().tolist()} & gone
    )
    rows = np.concatenate([batch["query_row"] for batch in drawn])
    short = inputs.short
    spoken_of = np.isin(short.code, list(gone)) | np.isin(short.under, list(gone))
    assert set(rows[rows >= 0].tolist()) == set(np.flatnonzero(~spoken_of).tolist())


def test_which_codes_are_left_out_hangs_on_the_code_alone(sample_tree) -> None:
    few, many = left_out_codes(sample_tree, 0.1), left_out_codes(sample_tree, 0.3)
    assert not (few & ~many).any()
    assert not left_out_codes(sample_tree, 0.0).any()
    smaller = type(sample_tree).from_codes(sample_tree.codes[sample_tree.sector == sample_tree.sector[-1]].tolist())
    within = np.isin(sample_tree.codes, smaller.codes)
    assert (left_out_codes(smaller, 0.3) == many[within]).all()
