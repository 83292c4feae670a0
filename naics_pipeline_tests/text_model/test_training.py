"""Training a stage with a tiny base: what is kept, and what comes out."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.errors import ModelError, SettingsError, TrainingError
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model, Settings
from naics_pipeline.text_model import checkpoints, inference
from naics_pipeline.text_model.checkpoints import load_weights
from naics_pipeline.text_model.curriculum.stage import (
    Buckets,
    Stage,
)
from naics_pipeline.text_model.losses import LOSSES
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT
from naics_pipeline.text_model.training import loop
from naics_pipeline.text_model.training import run as training_run
from naics_pipeline.text_model.training.run import stage_key
from naics_pipeline_tests.text_model.small import (
    CACHED,
    DYNAMIC,
    ONE_EPOCH,
    STAGE,
    changed,
    loss_of,
    settings_of,
    state_of,
)

NO_ENTRIES = pl.DataFrame(schema={"code": pl.String, "entry": pl.String, "split": pl.String})
NO_PHRASES = pl.DataFrame(schema={"phrase": pl.String, "code": pl.String, "under": pl.String})


def trained_terms(result: loop.StageResult) -> set[str]:
    return {name.removeprefix("train/") for name in result.history[0] if name.startswith("train/")} - {"loss"}


def test_a_stage_learns_moves_every_adapter_and_keeps_the_base(finished) -> None:
    first, last = finished.history[0], finished.history[-1]
    assert last["train/loss"] < first["train/loss"]
    assert trained_terms(finished) == {"contrastive", "query", "neighbour", "hierarchy", "balance", "radius"}
    assert {"val/loss", "val/query_top1", "largest", "radius/level_6", "negatives/bucket_1"} <= set(first)
    state = state_of(finished.last)
    for adapter in (SHORT, *LONG_CHANNELS):
        moved = {name: value for name, value in state.items() if f"lora_B.{adapter}." in name}
        assert len(moved) == 12
        assert all(value.abs().max() > 0 for value in moved.values())
        assert all(any(f"layer.{block}." in name for name in moved) for block in (0, 1))
    # The base is named, not held.
    assert not [name for name in state if ".encoder." in name and "lora_" not in name]


def test_the_best_epoch_is_that_of_the_least_loss_on_what_was_not_trained_on(run, tiny_base: Path, monkeypatch) -> None:
    losses = iter([1.0, 0.5, 2.0])
    monkeypatch.setattr(Objective, "total", lambda self, terms: loss_of(self, terms, losses))
    result = run(settings_of(tiny_base))
    assert [values["val/loss"] for values in result.history] == [1.0, 0.5, 2.0]
    assert result.metrics == result.history[1]
    record = checkpoints.read_stage(result.best.parent)
    assert record["metrics"] == result.history[1]
    best, last = state_of(result.best), state_of(result.last)
    assert any(not torch.equal(best[name], last[name]) for name in best)
    # What is handed on is of the best epoch as well.
    again = inference.TextEmbedder.load(result.best, "cpu").embed_texts(["growing soybeans"])
    np.testing.assert_allclose(result.embedder.embed_texts(["growing soybeans"]), again, atol=1e-6)


def test_codes_lie_where_their_cached_states_put_them(run, tiny_base: Path, frames) -> None:
    result = run(settings_of(tiny_base, CACHED))
    afresh = inference.TextEmbedder.load(result.best, "cpu").embed_codes(frames["descriptions"])
    assert result.codes.codes.tolist() == afresh.codes.tolist()
    np.testing.assert_allclose(result.codes.points, afresh.points, rtol=0, atol=0.02 * afresh.points[:, 1:].std())


def test_short_texts_are_places_of_the_space_and_unseen_ones_are_not(finished, frames) -> None:
    places, entries = finished.places, frames["index_entries"]
    assert set(places.columns["kind"]) == {"title", "entry", "phrase", "sentence"}
    texts = set(places.columns.filter(kind="entry")["text"])
    assert not set(entries.filter(pl.col("split") != "train")["entry"]) & set(places.columns["text"])
    assert set(entries.filter(split="train")["entry"]) <= texts
    afresh = finished.embedder.embed_texts(places.columns["text"].to_list())
    np.testing.assert_allclose(places.points, afresh, atol=1e-4)


def test_the_same_seed_gives_the_same_history_and_another_another(run, finished, tiny_base: Path) -> None:
    def losses(result: loop.StageResult) -> list[float]:
        return [values["train/loss"] for values in result.history]

    settings = settings_of(tiny_base)
    assert losses(run(settings)) == losses(finished)
    assert len(set(losses(finished))) == 3
    other = run(settings.model_copy(update={"seed": 7}), ONE_EPOCH, place="other")
    assert losses(other)[0] != losses(finished)[0]


def test_losses_of_half_precision_are_formed_in_full(run, tiny_base: Path, monkeypatch) -> None:
    halved: list[bool] = []

    def total(self: Objective, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        halved.append(torch.is_autocast_enabled("cpu"))
        return unpatched(self, terms)

    unpatched = Objective.total
    monkeypatch.setattr(Objective, "total", total)
    half = run(changed(settings_of(tiny_base), "training", precision="bf16-mixed"), ONE_EPOCH)
    assert halved
    assert not any(halved)
    full = run(settings_of(tiny_base), ONE_EPOCH, place="full")
    ours, theirs = (result.history[0]["train/loss"] for result in (half, full))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


def test_no_sum_of_a_stage_is_left_to_the_order_of_threads(run, tiny_base: Path) -> None:
    reproducible: list[bool] = []
    run(
        settings_of(tiny_base),
        ONE_EPOCH,
        on_epoch=lambda epoch, values: reproducible.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert reproducible == [True]


def test_the_rate_falls_to_zero_with_the_last_step_of_the_optimiser(run, tiny_base: Path) -> None:
    # Four batches an epoch, of which the optimiser makes two steps.
    settings = changed(settings_of(tiny_base), "training", accumulate=3)
    rates = [values["learning_rate"] for values in run(settings).history]
    assert rates[0] > rates[1] > 1e-4
    assert rates[2] == pytest.approx(0, abs=1e-9)


# Interruptions


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(run, tiny_base: Path, monkeypatch) -> None:
    def broken(view, scalars):
        steps.append(torch.is_grad_enabled())
        return term(view, scalars) * (float("nan") if sum(steps) == 6 else 1)

    steps: list[bool] = []
    term = LOSSES["contrastive"]
    monkeypatch.setitem(LOSSES, "contrastive", broken)
    with pytest.raises(TrainingError) as raised:
        run(settings_of(tiny_base))
    message = str(raised.value)
    assert "stage first, epoch 1" in message
    assert "(terms: contrastive)" in message
    assert "at learning rate 0.00" in message
    assert "on a batch of codes " in message
    good = Path(message.split("Last good checkpoint: ")[1].split(". Lower")[0])
    assert good.is_file()
    # A resumed run knows it from the first batch on.
    steps[:] = [True] * 5
    with pytest.raises(TrainingError, match=rf"epoch 1: .*Last good checkpoint: {good}"):
        run(settings_of(tiny_base))


def test_a_bucket_that_falls_short_is_warned_of(run, tiny_base: Path, caplog) -> None:
    hard = ONE_EPOCH.model_copy(update={"negatives": Buckets(difficulty_buckets=(7,), bucket_percentages={7: 1.0})})
    run(settings_of(tiny_base), hard)
    said = [record.getMessage() for record in caplog.records if "bucket 7 lacked" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("Stage first: ")


def test_what_could_have_no_effect_is_refused(run, tiny_base: Path) -> None:
    silent = DYNAMIC.model_copy(update={"attraction": None})
    with pytest.raises(SettingsError, match="the term attraction has weight 0"):
        run(settings_of(tiny_base), silent)
    with pytest.raises(SettingsError, match=r"clusters of hyperbolic space; model\.geometry is euclidean"):
        run(settings_of(tiny_base, {"geometry": "euclidean"}), DYNAMIC)
    with pytest.raises(SettingsError, match=r"router_guided, and model\.fusion is linear"):
        run(settings_of(tiny_base, {"fusion": "linear"}), DYNAMIC)


# One stage after another


def test_the_next_stage_starts_from_the_weights_of_the_one_before(run, finished, tiny_base: Path) -> None:
    still = ONE_EPOCH.model_copy(update={"name": "second", "after": "first", "learning_rate": 1e-12})
    second = state_of(run(settings_of(tiny_base), still, start_from=finished.best.parent).last)
    for name, value in state_of(finished.best).items():
        torch.testing.assert_close(second[name], value, msg=name, atol=1e-6, rtol=1e-4)


def test_a_stage_is_known_by_all_that_it_depends_on(frames, tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    settings = settings_of(tiny_base)
    keys = [
        stage_key(STAGE, settings, frames, tiny_base, None),
        stage_key(ONE_EPOCH, settings, frames, tiny_base, None),
        stage_key(STAGE, settings, frames, tiny_base, "earlier"),
        stage_key(STAGE, changed(settings, "model", base_share=0.1), frames, tiny_base, None),
        stage_key(STAGE, changed(settings, "tokens", short=13), frames, tiny_base, None),
        stage_key(STAGE, settings, frames | {"phrases": frames["phrases"][1:]}, tiny_base, None),
    ]
    monkeypatch.setattr(training_run, "code_version", lambda: "another loss")
    keys.append(stage_key(STAGE, settings, frames, tiny_base, None))
    monkeypatch.undo()
    other_base = shutil.copytree(tiny_base, tmp_path / "base")
    with (other_base / "model.safetensors").open("ab") as file:
        file.write(b"tuned")
    keys.append(stage_key(STAGE, settings, frames, other_base, None))
    assert len(set(keys)) == len(keys)
    elsewhere = settings.model_copy(update={"data_dir": "elsewhere"})
    assert stage_key(STAGE, changed(elsewhere, "graph", steps=9), frames, tiny_base, None) == keys[0]


def test_weights_of_another_shape_or_a_damaged_checkpoint_are_refused(
    run, stage_directory: Path, tiny_base: Path, tmp_path: Path
) -> None:
    after = ONE_EPOCH.model_copy(update={"name": "second", "after": "first"})
    for model in ({"embedding_dim": 9}, {"short_text": "full"}):
        with pytest.raises(ModelError, match="trained with other model settings"):
            run(changed(settings_of(tiny_base), "model", **model), after, start_from=stage_directory)
    best = stage_directory / checkpoints.BEST
    settings = settings_of(tiny_base)
    with pytest.raises(ModelError, match="trained for other codes"):
        load_weights(TextModel(tiny_base, settings, ["11", "21"]), best)
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        run(settings_of(tiny_base), after, start_from=stage_directory)
    best.unlink()
    with pytest.raises(ModelError, match="no finished checkpoint"):
        run(settings_of(tiny_base), after, start_from=stage_directory)
    with pytest.raises(ModelError, match="no such checkpoint"):
        inference.TextEmbedder.load(best, "cpu")


def test_a_stage_may_weigh_terms_anew_and_leave_the_adapters_alone(run, tiny_base: Path) -> None:
    alone = Stage(name="short", contrastive=0, hierarchy=0, radius=0, epochs=1, learning_rate=0.003)
    first = run(settings_of(tiny_base), alone)
    assert trained_terms(first) == {"query", "neighbour", "balance"}
    assert not [name for name in first.history[0] if name.startswith("negatives/")]
    still = ONE_EPOCH.model_copy(update={"name": "still", "after": "short", "adapter_rate": 0.0, "query": 0.5})
    second = run(settings_of(tiny_base, radius=0.0), still, start_from=first.best.parent)
    assert trained_terms(second) == {"query", "balance", "contrastive", "hierarchy"}
    before, after = state_of(first.best), state_of(second.best)
    assert all(torch.equal(before[name], after[name]) for name in before if "lora_" in name)
    assert torch.equal(before["model.fusion.projection.weight"], after["model.fusion.projection.weight"])
    assert not torch.equal(before["model.offset"], after["model.offset"])


def test_a_stage_that_leaves_the_adapters_alone_does_not_read_again_what_the_last_one_read(
    run, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    settings = settings_of(tiny_base)
    first = run(settings, ONE_EPOCH)
    read, texts = TextModel.read_short, []

    def counted(self, tokens, base=None):
        texts.append(len(tokens))
        return read(self, tokens, base)

    monkeypatch.setattr(TextModel, "read_short", counted)
    still = ONE_EPOCH.model_copy(update={"name": "still", "after": "first", "adapter_rate": 0.0})
    kept = run(settings, still, start_from=first.best.parent)
    assert max(texts) < len(first.places.codes)
    for file in (tmp_path / "hidden").glob("read-*"):
        file.unlink()
    anew = run(settings, still, start_from=first.best.parent, place="anew")
    assert max(texts) == len(first.places.codes)
    np.testing.assert_allclose(kept.codes.points, anew.codes.points, rtol=1e-5)
    other = run(settings.model_copy(update={"seed": 5}), ONE_EPOCH, place="other")
    assert len(list((tmp_path / "hidden").glob("read-*"))) == 1
    assert not np.allclose(other.places.points, first.places.points)


# Ablations and embeddings


def sound(points: np.ndarray, rows: int, embeddings: inference.Embeddings) -> None:
    width = 8 if embeddings.geometry == "euclidean" else 9
    assert points.shape == (rows, width)
    assert np.isfinite(points).all()
    if width == 9:
        assert float(lorentz.violation(torch.from_numpy(points), curvature=embeddings.curvature).max()) < 1e-9


@pytest.mark.parametrize(
    "model",
    [
        {"fusion": "linear"},
        {"geometry": "euclidean"},
        CACHED,
        {"learn_curvature": True, "curvature": 1.0},
        {"base_share": 0.0},
    ],
    ids=["linear", "euclidean", "cached", "curvature", "no share of the base"],
)
def test_ablations_train_and_embed(run, tiny_base: Path, frames, model) -> None:
    result = run(settings_of(tiny_base, model), ONE_EPOCH)
    embedder = inference.TextEmbedder.load(result.best, "cpu")
    codes = embedder.embed_codes(frames["descriptions"])
    sound(codes.points, frames["descriptions"].height, codes)
    sound(embedder.embed_texts(["growing soybeans", "bank"]), 2, codes)
    start = model.get("curvature", Model().curvature)
    assert (codes.curvature != pytest.approx(start)) == model.get("learn_curvature", False)


def test_full_fine_tuning_is_saved_and_read_back(run, tiny_base: Path, frames) -> None:
    result = run(settings_of(tiny_base, {"short_text": "full"}), ONE_EPOCH)
    state = {name: value for name, value in state_of(result.best).items() if ".encoder.full." in name}
    base = inference.TextEmbedder.load(result.best, "cpu").model.encoder.model.get_base_model().state_dict()
    moved = {name for name, value in state.items() if "lora" not in name and _differs(name, value, base)}
    assert len(moved) > 20
    read_back = inference.TextEmbedder.load(result.best, "cpu")
    np.testing.assert_allclose(
        read_back.embed_texts(["software publishing"]), result.embedder.embed_texts(["software publishing"]), atol=1e-6
    )
    np.testing.assert_allclose(read_back.embed_codes(frames["descriptions"]).points, result.codes.points, atol=1e-4)


def _differs(name: str, value: torch.Tensor, base: dict[str, torch.Tensor]) -> bool:
    """Whether a weight of the trained base is another than the frozen one's, which PEFT may call base_layer."""
    stem, _, last = name.removeprefix("model.encoder.full.").rpartition(".")
    frozen = base.get(f"{stem}.{last}", base.get(f"{stem}.base_layer.{last}"))
    return frozen is not None and not torch.equal(value, frozen)


def test_a_code_that_training_did_not_know_takes_its_place_beside_those_that_say_the_same(finished, frames) -> None:
    embedder = inference.TextEmbedder.load(finished.best, "cpu")
    descriptions = frames["descriptions"]
    place = embedder.model.codes.index("722511")
    # To a base this small all texts say much the same; the place must be one that no other code's comes near.
    embedder.model.offset.data[place] = 1.0
    known = embedder.embed_codes(descriptions)
    twin = descriptions.filter(code="722511").with_columns(code=pl.lit("722599"))
    found = embedder.embed_codes(pl.concat([descriptions, twin]))
    np.testing.assert_allclose(found.points[:-1], known.points, atol=1e-6)
    row = int(np.flatnonzero(known.codes == "722511")[0])
    embedder.model.offset.data[place] = 0
    unplaced = embedder.embed_codes(descriptions)
    np.testing.assert_allclose(np.delete(unplaced.points, row, 0), np.delete(known.points, row, 0), atol=1e-6)
    embedder.model.offset.data.zero_()
    alone = embedder.embed_codes(descriptions)
    assert np.abs(alone.points - known.points).max() > 1e-3

    def from_place(point: np.ndarray) -> float:
        return float(lorentz.distance(*torch.from_numpy(np.stack([known.points[row], point]))))

    assert from_place(found.points[-1]) < from_place(alone.points[row])
    assert np.abs(unplaced.points[row] - alone.points[row]).max() > 1e-4


def test_codes_have_no_offset_where_all_are_dropped(run, tiny_base: Path) -> None:
    result = run(settings_of(tiny_base, {"offset_dropout": 1.0}), ONE_EPOCH)
    assert (result.embedder.model.offset == 0).all()


def test_exported_points_are_those_that_training_evaluated(finished, frames) -> None:
    embeddings = inference.TextEmbedder.load(finished.best, "cpu").embed_codes(frames["descriptions"])
    np.testing.assert_allclose(embeddings.points, finished.codes.points, atol=1e-4)
    points = torch.from_numpy(embeddings.points)
    largest = float(lorentz.pairwise_distance(points, points, curvature=embeddings.curvature).max())
    assert largest == pytest.approx(finished.metrics["largest"], rel=1e-3)


def test_temperatures_are_learned_only_when_asked(run, tiny_base: Path) -> None:
    def reached(place: str, **objective: bool) -> tuple[float, float]:
        values = run(settings_of(tiny_base, **objective), ONE_EPOCH, place=place).history[-1]
        return values["temperature"], values["query_temperature"]

    assert reached("fixed", learn_query_temperature=False) == (0.5, 0.25)
    learned = reached("learned", learn_temperature=True)
    assert learned[0] != 0.5
    assert learned[1] != 0.25


def test_in_batch_negatives_and_zero_weights_change_what_is_computed(run, finished, tiny_base: Path) -> None:
    wide = run(settings_of(tiny_base, in_batch_negatives=True), ONE_EPOCH, place="wide")
    assert wide.history[0]["train/contrastive"] > finished.history[0]["train/contrastive"]
    few = ONE_EPOCH.model_copy(update={"max_positives": 1})
    bare = run(settings_of(tiny_base, query=0, neighbour=0, radius=0, balance=0), few, place="bare")
    assert trained_terms(bare) == {"contrastive", "hierarchy"}


@pytest.mark.parametrize("model", [{}, CACHED], ids=["tokens", "cached"])
def test_one_sector_without_any_entry_or_phrase_trains(run, frames, tiny_base: Path, model) -> None:
    sector = frames["descriptions"].filter(pl.col("code").str.starts_with("23"))
    sector = sector.with_columns(
        examples=pl.lit(None, dtype=pl.List(pl.String)), excluded_codes=pl.lit([], dtype=pl.List(pl.String))
    )
    settings = changed(settings_of(tiny_base, model), "training", variations=0.5)
    result = run(settings, ONE_EPOCH, descriptions=sector, index_entries=NO_ENTRIES, phrases=NO_PHRASES)
    assert "val/query_top1" not in result.history[0]
    assert result.history[0]["train/hierarchy"] > 0
    assert np.isfinite(result.history[0]["train/loss"])


def test_what_the_base_says_is_computed_once_and_old_states_are_removed(
    run, tiny_base: Path, tmp_path: Path, caplog
) -> None:
    def kept(settings: Settings) -> tuple[set[str], bool]:
        caplog.clear()
        run(settings, ONE_EPOCH)
        names = {path.name for path in (tmp_path / "hidden").iterdir() if not path.name.startswith("read-")}
        return names, "Computing hidden states" in caplog.text

    settings = settings_of(tiny_base, CACHED)
    with caplog.at_level("INFO"):
        first, computed = kept(settings)
        assert computed
        # Of descriptions, of exclusions, and of short texts.
        assert len(first) == 3
        assert kept(settings.model_copy(update={"seed": 5})) == (first, False)
        damaged = tmp_path / "hidden" / sorted(first)[0]
        content = bytearray(damaged.read_bytes())
        content[200] ^= 1
        damaged.write_bytes(content)
        assert kept(settings) == (first, True)
        assert f"{damaged}: damaged" in caplog.text
        shorter, computed = kept(changed(settings, "tokens", description=10))
        assert computed
        assert len(shorter) == 3
        assert len(first & shorter) == 2
