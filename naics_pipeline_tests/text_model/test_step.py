"""One step: where it starts, what a query's code is made of, and what reaches the loss and what does not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.text_model.model import CodeVectors
from naics_pipeline.text_model.tokens import CHANNELS, LONG_CHANNELS
from naics_pipeline.text_model.training.batches import Batch, validation_batch
from naics_pipeline.text_model.training.inputs import EXAMPLE, PHRASE, SENTENCE, TITLE
from naics_pipeline.text_model.training.module import StageModule, pairs_of
from naics_pipeline_tests.text_model.small import (
    changed,
    discriminants,
    example_set,
    gradients,
    left_rows,
    module_of,
    settings_of,
    total_loss,
    whole,
)

MADE_UP = -1


def queries_by_kind(module: StageModule, batches: list[Batch]) -> Iterator[tuple[int, int, Batch]]:
    """(kind, position, batch) of every query of an epoch."""
    for batch in batches:
        for position, row in enumerate(batch["query_row"].tolist()):
            yield (int(module.plan.inputs.short.kind[row]) if row >= 0 else MADE_UP), position, batch


def terms(
    module: StageModule, batch: Batch, queries: torch.Tensor, codes: CodeVectors, short: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The losses of a batch, every code with its offset."""
    return module.objective(module.view(batch, queries, codes, short, module.model.offset))


def alone(batch: Batch, position: int) -> Batch:
    """The batch with one of its queries and no other."""
    one = {name: batch[name][[position]] for name in ("query_row", "query_code", "query_under", "left_channel")}
    for name in ("left", "itself"):
        of_it = batch[f"{name}_of"] == position
        one[f"{name}_row"] = batch[f"{name}_row"][of_it]
        one[f"{name}_of"] = torch.zeros(int(of_it.sum()), dtype=torch.long)
    return batch | one


def stirred(module: StageModule) -> StageModule:
    """With experts that have something to say, as after training."""
    torch.manual_seed(3)
    for parameter in module.model.fusion.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return module


# Leave one out


def formed_anew(module: StageModule, kind: int, code: int, without: set[int]) -> tuple[torch.Tensor, list[bool]]:
    """Channels and presence of a code, from its texts less those left out, with no sum taken apart."""
    short = module.tables.short.values
    kept = [row for row in example_set(module.plan.inputs, code) if row not in without]
    channels = {
        "title": short[code],
        "examples": short[kept].mean(0) if kept else torch.zeros(short.shape[1]),
        **{name: module.tables.long[name].values[code] for name in LONG_CHANNELS},
    }
    present = dict(zip(CHANNELS, module.plan.inputs.present[code].tolist(), strict=True))
    present["examples"] = bool(kept)
    present["title"] &= kind != TITLE
    present["description"] &= kind != SENTENCE
    present["description"] |= not any(present.values())
    return torch.stack([channels[name] for name in CHANNELS]), [present[name] for name in CHANNELS]


def test_a_querys_code_is_formed_without_it(one_step) -> None:
    module, batches = one_step
    codes, seen = module.tables.code_vectors(), dict.fromkeys((TITLE, EXAMPLE, PHRASE, SENTENCE, MADE_UP), 0)
    for kind, position, batch in queries_by_kind(module, batches):
        seen[kind] += 1
        if seen[kind] > 60:
            continue
        query = alone(batch, position)
        channels, known = codes.leave_one_out(
            query["query_code"], query["left_channel"], module.tables.short.values[query["left_row"]], query["left_of"]
        )
        code, left = int(query["query_code"]), set(query["left_row"].tolist())
        if kind == EXAMPLE:
            assert left == {int(query["query_row"])}
        expected, present = formed_anew(module, kind, code, left)
        assert known[0].tolist() == present
        torch.testing.assert_close(channels[0][present], expected[present], atol=1e-5, rtol=1e-5)
    assert min(seen.values()) > 60


def test_a_batch_leaves_out_of_each_code_what_each_query_is_alone(one_step) -> None:
    module, batches = one_step
    codes, batch = module.tables.code_vectors(), next(iter(batches))
    together = codes.leave_one_out(
        batch["query_code"], batch["left_channel"], module.tables.short.values[batch["left_row"]], batch["left_of"]
    )
    for position in range(len(batch["query_code"])):
        one = alone(batch, position)
        apart = codes.leave_one_out(
            one["query_code"], one["left_channel"], module.tables.short.values[one["left_row"]], one["left_of"]
        )
        torch.testing.assert_close(together[0][position], apart[0][0], atol=1e-6, rtol=1e-5)
        assert torch.equal(together[1][position], apart[1][0])


def differentiable(module: StageModule) -> tuple[torch.Tensor, dict[str, torch.Tensor], CodeVectors]:
    """Vectors of short and long texts as leaves, and the codes made of them."""
    short = module.tables.short.values.clone().requires_grad_()
    long = {name: module.tables.long[name].values.clone().requires_grad_() for name in LONG_CHANNELS}
    return short, long, module.tables.codes(short, long, module.tables.present)


def test_a_query_does_not_pull_the_words_it_consists_of(one_step) -> None:
    module, batches = one_step
    stirred(module)
    deepest, seen = module.plan.inputs.tree.level == 6, dict.fromkeys((TITLE, EXAMPLE, SENTENCE, MADE_UP), 0)
    for kind, position, batch in queries_by_kind(module, batches):
        code = int(batch["query_code"][position])
        others = set(example_set(module.plan.inputs, code)) - set(left_rows(batch, position))
        if kind not in seen or seen[kind] == 5 or not deepest[code] or not others:
            continue
        seen[kind] += 1
        short, long, codes = differentiable(module)
        query = module.tables.short.values[batch["query_row"][[position]]]
        terms(module, alone(batch, position), query, codes, short)["query"].backward()
        own = {EXAMPLE: left_rows(batch, position), MADE_UP: left_rows(batch, position), TITLE: [code], SENTENCE: []}
        pull = short.grad.norm(dim=1)
        described = long["description"].grad[code].norm()
        scale = float(pull[sorted(others)].max())
        assert scale > 1e-6
        assert all(pull[row] < 1e-4 * scale for row in own[kind])
        assert (pull[code] > 1e-6) == (kind != TITLE)
        assert (described > 1e-6) == (kind != SENTENCE)
    assert set(seen.values()) == {5}


def test_a_query_is_drawn_to_other_texts_of_its_code_and_not_to_itself(inputs_of, tiny_base: Path) -> None:
    settings = whole(settings_of(tiny_base, neighbour=1.0))
    module, batches = module_of(inputs_of(settings), settings)
    short, seen = module.plan.inputs.short, dict.fromkeys((TITLE, EXAMPLE, PHRASE, SENTENCE, MADE_UP), 0)
    again, deepest = short.title_again(), module.plan.inputs.tree.level == 6
    for kind, position, batch in queries_by_kind(module, batches):
        code, row = int(batch["query_code"][position]), int(batch["query_row"][position])
        itself = {row, int(again[row])} - {-1} if row >= 0 else set(left_rows(batch, position))
        others = set(np.flatnonzero(short.code == code)) - itself
        if seen[kind] == 5 or not deepest[code] or not others:
            continue
        seen[kind] += 1
        texts, _, codes = differentiable(module)
        query = torch.randn(1, texts.shape[1])
        terms(module, alone(batch, position), query, codes, texts)["neighbour"].backward()
        pull = texts.grad.norm(dim=1)
        assert not pull[sorted(itself)].any()
        assert pull[sorted(others)].max() > 0
        # No text of a broader code has a place among those of the leaves.
        assert not pull[torch.from_numpy(~deepest[short.code])].any()
    assert set(seen.values()) == {5}


def test_of_many_texts_a_sample_are_neighbours(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base)
    few = changed(settings, "training", neighbours_per_step=100)
    pulled = []
    for chosen in (settings, few, few):
        module, (batch, *_) = module_of(inputs_of(chosen), chosen)
        texts, _, codes = differentiable(module)
        with torch.random.fork_rng():
            torch.manual_seed(len(pulled))
            terms(module, batch, module.tables.short.values[batch["query_row"]], codes, texts)["neighbour"].backward()
        pulled.append(texts.grad.norm(dim=1) > 0)
        assert not pulled[-1][batch["itself_row"]].all()
    assert pulled[0].sum() > 100 >= pulled[1].sum() > 0
    assert not torch.equal(pulled[1], pulled[2])


def test_a_text_that_training_may_not_read_is_nobodys_neighbour(inputs_of, tiny_base: Path) -> None:
    settings = changed(settings_of(tiny_base, neighbour=1.0), "training", left_out_fraction=0.3)
    module, (batch, *_) = module_of(inputs_of(settings), settings)
    texts, _, codes = differentiable(module)
    terms(module, batch, module.tables.short.values[batch["query_row"]], codes, texts)["neighbour"].backward()
    kept = np.zeros(len(texts), dtype=bool)
    kept[module.plan.queries] = True
    pulled = texts.grad.norm(dim=1) > 0
    assert np.count_nonzero(~kept) > 0
    assert pulled.any()
    assert not pulled[torch.from_numpy(~kept)].any()


@pytest.mark.parametrize("kind", [TITLE, EXAMPLE, SENTENCE])
def test_a_code_of_which_nothing_else_is_left_keeps_its_description(one_step, kind: int) -> None:
    module, batches = one_step
    stirred(module)
    batch, position = next(
        (batch, position)
        for found, position, batch in queries_by_kind(module, batches)
        if found == kind
        and module.plan.inputs.tree.level[batch["query_code"][position]] == 6
        and (kind != EXAMPLE or len(example_set(module.plan.inputs, int(batch["query_code"][position]))) > 1)
    )
    query = alone(batch, position)
    code, row = int(query["query_code"]), int(query["query_row"])
    # Of this code nothing is known but the query itself.
    inputs = module.plan.inputs
    stays = (inputs.short.code != code) | (inputs.short.kind != EXAMPLE) | (np.arange(len(inputs.short.kind)) == row)
    rows = np.flatnonzero(stays & (inputs.short.kind == EXAMPLE))
    module.tables.example_rows = torch.from_numpy(rows)
    module.tables.example_code = torch.from_numpy(inputs.short.code[rows])
    module.tables.present = module.tables.present.clone()
    module.tables.present[code] = torch.arange(4) == {TITLE: 0, SENTENCE: 1, EXAMPLE: 2}[kind]
    short, long, codes = differentiable(module)
    channels, known = codes.leave_one_out(
        query["query_code"], query["left_channel"], short[query["left_row"]], query["left_of"]
    )
    assert known.tolist() == [[False, True, False, False]]
    assert torch.equal(channels[0, 1], long["description"][code])
    loss = terms(module, query, module.tables.short.values[query["query_row"]], codes, short)["query"]
    loss.backward()
    assert torch.isfinite(loss)
    found = [short.grad, *(table.grad for table in long.values()), *gradients(module).values()]
    assert all(torch.isfinite(gradient).all() for gradient in found)


# The start


def test_the_experts_say_nothing_before_they_are_trained(one_step) -> None:
    fusion = one_step[0].model.fusion.train()
    assert (fusion.experts(torch.randn(20, 4 * 32))[0] == 0).all()


def test_the_space_starts_as_the_projected_means_of_the_bases_vectors(one_step) -> None:
    module, _ = one_step
    fusion, codes = module.model.fusion, module.tables.code_vectors()
    short = module.tables.short.values.double().numpy()
    mean = short.mean(0)
    components = discriminants(short, module.plan.inputs.short.code, 8)
    shares = fusion.log_share.exp().detach().double().numpy() * module.plan.inputs.present
    shares /= shares.sum(axis=1, keepdims=True)
    means = np.einsum("nc,ncw->nw", shares, codes.channels.double().numpy())

    def directions(vectors: np.ndarray) -> np.ndarray:
        projected = (vectors - mean) @ components
        return projected / np.linalg.norm(projected, axis=1, keepdims=True)

    with torch.no_grad():
        points = module.model.code_points(codes, module.plan.inputs.tree.codes).double()
        texts = module.model.fusion.place_texts(module.tables.validation.values).double()
        distances = fusion.distances(texts, points).numpy()
        radii = fusion.radii(torch.cat([points, texts])).numpy()
    cosines = directions(module.tables.validation.values.double().numpy()) @ directions(means).T
    np.testing.assert_allclose(radii, radii[0], rtol=1e-4)
    # Points of one sphere: the nearer, the greater the cosine, up to the rounding of float32.
    order = np.argsort(-cosines, axis=1)
    assert np.diff(np.take_along_axis(distances, order, axis=1), axis=1).min() > -1e-4
    root = float(fusion.curvature) ** 0.5
    radius = root * radii[0]
    expected = np.arccosh(np.cosh(radius) ** 2 - np.sinh(radius) ** 2 * np.minimum(cosines, 1 - 1e-9)) / root
    np.testing.assert_allclose(distances, expected, atol=2e-3)


# What learns


# What is held out


def farther(module: StageModule, pairs: torch.Tensor) -> None:
    """Tells the module another distance of these pairs."""
    module.tree.tree_distance[pairs] = 7
    module.tree.distance[pairs] = 9.5


def test_distances_of_held_out_pairs_do_not_reach_the_loss(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, in_batch_negatives=True)
    settings = changed(settings, "training", validation_fraction=0.3)
    module, batches = module_of(inputs_of(settings), settings)
    stirred(module)
    batch = next(iter(batches))
    assert module.tree.held_out[batch["codes"]][:, batch["codes"]].sum() > 20

    def loss() -> float:
        return float(total_loss(module, batch))

    before = loss()
    farther(module, module.tree.held_out)
    assert loss() == before
    farther(module, ~module.tree.held_out & (module.tree.tree_distance > 0))
    assert loss() != before


def test_held_out_pairs_are_what_the_best_epoch_is_chosen_by(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base)
    module, _ = module_of(inputs_of(settings), settings)
    pairs = pairs_of(validation_batch(module.plan))

    def validation() -> dict[str, float]:
        values = module.validation(module.model, module.objective, module.tables, pairs)
        return {name.removeprefix("val/"): value for name, value in values.items() if name.startswith("val/")}

    before = validation()
    assert set(before) == {"contrastive", "query", "hierarchy", "loss", "query_top1", "query_top5"}
    farther(module, module.tree.held_out)
    assert validation()["hierarchy"] != before["hierarchy"]
    farther(module, torch.from_numpy(module.plan.inputs.tree.tree_distance()) > 0)
    after = validation()
    assert after["hierarchy"] != before["hierarchy"]


def test_nothing_that_is_said_of_a_code_left_out_reaches_the_loss(inputs_of, tiny_base: Path) -> None:
    settings = whole(settings_of(tiny_base, in_batch_negatives=True), left_out_fraction=0.2)
    inputs = inputs_of(settings)
    module, batches = module_of(inputs, settings)
    stirred(module)
    gone = torch.from_numpy(inputs.left_out)
    of_gone = torch.from_numpy(inputs.left_out[inputs.short.code])
    for _, batch in zip(range(4), batches, strict=False):
        short, long, codes = differentiable(module)
        queries = torch.nn.functional.normalize(torch.randn(len(batch["query_code"]), 32), dim=-1)
        found = terms(module, batch, queries, codes, short)
        assert set(found) == {"contrastive", "query", "neighbour", "hierarchy", "radius", "balance"}
        module.objective.total(found).backward()
        assert (short.grad[of_gone] == 0).all()
        assert (short.grad[: len(gone)][~gone].abs().sum(1) > 0).all()
        for table in long.values():
            assert (table.grad[gone] == 0).all()
        assert (long["description"].grad[~gone].abs().sum(1) > 0).all()
        assert (module.model.offset.grad[gone] == 0).all()
        assert (module.model.offset.grad[~gone].abs().sum(1) > 0).all()
        module.model.offset.grad = None


# Precision


def test_what_only_training_looks_at_is_read_in_its_precision(inputs_of, tiny_base: Path) -> None:
    inputs, tables = inputs_of(settings_of(tiny_base)), {}
    for precision in ("32-true", "bf16-mixed"):
        module, _ = module_of(inputs, changed(settings_of(tiny_base), "training", precision=precision))
        kept = module.tables.short.values.clone()
        module.tables.renew(module.model)
        tables[precision] = module.tables
        assert torch.equal(kept, module.tables.short.values) == (precision == "32-true")
    full, half = tables.values()
    for ours, theirs in ((half.short, full.short), (half.validation, full.validation)):
        assert not torch.equal(ours.values, theirs.values)
        torch.testing.assert_close(ours.values, theirs.values, atol=0.03, rtol=0)


# Memory


def test_groups_that_are_recomputed_give_the_gradients_of_one(inputs_of, tiny_base: Path) -> None:
    def found(tokens_per_group: int) -> dict[str, torch.Tensor]:
        settings = changed(settings_of(tiny_base), "training", tokens_per_group=tokens_per_group)
        module, batches = module_of(inputs_of(settings_of(tiny_base)), settings)
        total_loss(module, next(iter(batches))).backward()
        return gradients(module)

    whole_batch, groups = found(8192), found(60)
    assert whole_batch.keys() == groups.keys()
    assert [name for name in groups if "lora_" in name]
    for name, gradient in whole_batch.items():
        torch.testing.assert_close(groups[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
