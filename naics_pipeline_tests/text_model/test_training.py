"""Training a stage with a tiny base: what is kept, and what comes out."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.errors import SettingsError, TrainingError
from naics_pipeline.settings import Settings
from naics_pipeline.text_model import checkpoints, inference
from naics_pipeline.text_model.curriculum.stage import Buckets
from naics_pipeline.text_model.losses import LOSSES
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT
from naics_pipeline.text_model.training import loop
from naics_pipeline_tests.text_model.small import (
    CACHED,
    DYNAMIC,
    ONE_EPOCH,
    changed,
    loss_of,
    settings_of,
    state_of,
    trained_terms,
)

NO_ENTRIES = pl.DataFrame(schema={"code": pl.String, "entry": pl.String, "split": pl.String})
NO_PHRASES = pl.DataFrame(schema={"phrase": pl.String, "code": pl.String, "under": pl.String})


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


def test_codes_have_no_offset_where_all_are_dropped(run, tiny_base: Path) -> None:
    result = run(settings_of(tiny_base, {"offset_dropout": 1.0}), ONE_EPOCH)
    assert (result.embedder.model.offset == 0).all()


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
