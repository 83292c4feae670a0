"""Training a stage on the bundled sample with a tiny base: what moves, what is kept, what happens when it breaks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.errors import ModelError, TrainingError
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model, Objective, Settings, Tokens, Training
from naics_pipeline.taxonomy import text
from naics_pipeline.text_model import inference, training
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.tokens import CHANNELS

STAGE = Stage(
    name="first",
    positive_levels=(5, 6),
    positive_distance_max=3.0,
    difficulty_buckets=(1, 2, 6),
    bucket_percentages={1: 0.5, 2: 0.25, 6: 0.25},
    k_negatives=4,
    epochs=3,
    learning_rate=0.003,
)


def settings_of(tiny_base: Path, model: dict | None = None, **changes: object) -> Settings:
    return Settings(
        accelerator="cpu",
        tokens=Tokens(title=12, description=12, examples=12, excluded=12, query=12),
        model=Model(base=str(tiny_base), embedding_dim=8, expert_dim=16, **(model or {})),
        objective=Objective(**{"temperature": 0.5, **changes}),
        training=Training(pairs_per_batch=16, pairs_per_epoch=64, queries_per_batch=32, live_codes=40),
    )


@pytest.fixture(scope="session")
def phrases(sample_books, sample_descriptions, sample_entries) -> pl.DataFrame:
    return text.activity_phrases(sample_books, sample_descriptions, sample_entries)


@pytest.fixture
def run(sample_descriptions, sample_entries, phrases, tmp_path) -> Callable[..., training.StageResult]:
    def train(
        settings: Settings, stage: Stage = STAGE, start_from: Path | None = None, **hooks
    ) -> training.StageResult:
        return training.train_stage(
            stage,
            settings,
            descriptions=sample_descriptions,
            index_entries=sample_entries,
            phrases=phrases,
            token_cache=tmp_path / "token_cache",
            hidden_cache=tmp_path / "hidden",
            directory=tmp_path / "stages" / hooks.pop("place", stage.name),
            start_from=start_from,
            metrics=lambda distances: {"largest": float(distances.max())},
            on_epoch=hooks.pop("on_epoch", lambda epoch, values: None),
        )

    return train


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)["state_dict"]


def test_a_stage_learns_moves_every_adapter_and_keeps_the_base(run, tiny_base: Path) -> None:
    epochs = []
    result = run(settings_of(tiny_base), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [0, 1, 2]
    assert result.history[-1]["train/loss"] < result.history[0]["train/loss"]
    assert {"train/contrastive", "train/query", "train/hierarchy", "train/balance", "train/radius"} <= set(
        result.history[0]
    )
    assert {"val/loss", "val/query_top1", "largest", "radius/level_6", "negatives/bucket_1"} <= set(result.history[0])
    state = state_of(result.last)
    for channel in CHANNELS:
        moved = [value for name, value in state.items() if f"lora_B.{channel}." in name]
        assert len(moved) == 12
        assert all(value.abs().max() > 0 for value in moved)
    # The base is named, not held.
    assert not [name for name in state if ".encoder." in name and "lora_" not in name]
    record = training.read_stage(result.best.parent)
    assert record["metrics"]["val/loss"] == min(values["val/loss"] for values in result.history)


def test_codes_lie_where_their_cached_states_put_them(run, tiny_base: Path, sample_descriptions: pl.DataFrame) -> None:
    result = run(settings_of(tiny_base, {"trainable_blocks": 1}))
    assert result.channels["title"].values.dtype == np.float16
    embedder = inference.TextEmbedder.load(result.best, "cpu")
    cached, afresh = (embedder.embed_codes(sample_descriptions, texts).points for texts in (result.channels, None))
    np.testing.assert_allclose(cached, afresh, rtol=0, atol=0.01 * afresh[:, 1:].std())


def test_the_same_seed_gives_the_same_history_and_another_another(run, tiny_base: Path) -> None:
    def losses(settings: Settings, place: str) -> list[float]:
        return [values["train/loss"] for values in run(settings, place=place).history]

    settings = settings_of(tiny_base)
    first, again = losses(settings, "a"), losses(settings, "b")
    assert first == again
    assert len(set(first)) == 3
    assert losses(settings.model_copy(update={"seed": 7}), "c") != first


def test_a_run_cut_short_goes_on_with_the_losses_of_an_unbroken_one(run, tiny_base: Path) -> None:
    settings = settings_of(tiny_base)
    unbroken = run(settings, place="unbroken")

    def stop(epoch: int, values: dict[str, float]) -> None:
        if epoch == 1:
            raise OSError("pulled the plug")

    with pytest.raises(OSError, match="pulled the plug"):
        run(settings, place="cut", on_epoch=stop)
    resumed_epochs = []
    resumed = run(settings, place="cut", on_epoch=lambda epoch, values: resumed_epochs.append(epoch))
    assert resumed_epochs == [1, 2]
    for left, right in zip(unbroken.history, resumed.history, strict=True):
        for name in ("train/loss", "val/loss", "val/query", "largest"):
            assert left[name] == right[name], name
    for name, value in state_of(unbroken.last).items():
        assert torch.equal(state_of(resumed.last)[name], value)


def test_other_settings_do_not_resume_and_a_finished_stage_stays_until_the_next_is_done(run, tiny_base: Path) -> None:
    finished = run(settings_of(tiny_base))
    before = finished.best.read_bytes()

    def stop(epoch: int, values: dict[str, float]) -> None:
        raise OSError("pulled the plug")

    with pytest.raises(OSError, match="pulled"):
        run(settings_of(tiny_base, hierarchy=2.0), on_epoch=stop)
    assert finished.best.read_bytes() == before
    epochs = []
    run(settings_of(tiny_base, hierarchy=3.0), on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [0, 1, 2]
    assert finished.best.read_bytes() != before
    assert not list(finished.best.parent.glob(".unfinished-*"))


def test_kill_9_in_the_middle_of_an_epoch_costs_only_that_epoch(run, tiny_base, sample_descriptions, tmp_path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from naics_pipeline_tests.text_model import test_training as t
from naics_pipeline.text_model import training, module
from naics_pipeline.taxonomy import census, text
from naics_pipeline.settings import Download
from pathlib import Path
books = census.read_source("sample", 2022, Download(), Path({str(tmp_path)!r}))
entries = text.index_entries(books, 0.2)
descriptions = text.descriptions(books, entries)
step = module.StageModule.training_step
def slow(self, batch, index):
    if self.current_epoch == 1:
        print("MIDDLE", flush=True)
        time.sleep(60)
    return step(self, batch, index)
module.StageModule.training_step = slow
training.train_stage(t.STAGE, t.settings_of(Path({str(tiny_base)!r})), descriptions=descriptions, index_entries=entries,
    phrases=text.activity_phrases(books, descriptions, entries), token_cache=Path({str(tmp_path / "token_cache")!r}),
    hidden_cache=Path({str(tmp_path / "hidden")!r}), directory=Path({str(tmp_path / "stages" / "killed")!r}),
    metrics=lambda distances: {{"largest": float(distances.max())}}, on_epoch=lambda epoch, values: None,
    start_from=None)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert any("MIDDLE" in line for line in process.stdout)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    epochs = []
    resumed = run(settings_of(tiny_base), place="killed", on_epoch=lambda epoch, values: epochs.append(epoch))
    assert epochs == [1, 2]
    assert len(resumed.history) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(run, tiny_base: Path, monkeypatch) -> None:
    from naics_pipeline.text_model import module

    whole = module.hierarchy_loss
    calls = iter(range(10_000))
    # The fifth step of the run: four a epoch, and one validation between them.
    monkeypatch.setattr(module, "hierarchy_loss", lambda *a: whole(*a) * (float("nan") if next(calls) == 6 else 1))
    with pytest.raises(TrainingError) as raised:
        run(settings_of(tiny_base))
    message = str(raised.value)
    assert "stage first, epoch 1" in message
    assert "terms: hierarchy" in message
    assert "learning rate" in message
    assert "anchors" in message
    good = Path(message.split("Last good checkpoint: ")[1].split(". Lower")[0])
    assert good.is_file()


@pytest.mark.parametrize(
    "model", [{"fusion": "linear"}, {"geometry": "euclidean"}, {"trainable_blocks": 1}, {"learn_curvature": True}]
)
def test_ablations_train_and_embed(run, tiny_base, sample_descriptions, model) -> None:
    short = STAGE.model_copy(update={"epochs": 1})
    result = run(settings_of(tiny_base, model), short)
    embedder = inference.TextEmbedder.load(result.best, "cpu")
    embeddings = embedder.embed_codes(sample_descriptions)
    queries = embedder.embed_texts(["growing soybeans", "bank"])
    width = 8 if model.get("geometry") == "euclidean" else 9
    assert embeddings.points.shape == (sample_descriptions.height, width)
    assert queries.shape == (2, width)
    assert np.isfinite(embeddings.points).all()
    if width == 9:
        c = embeddings.curvature
        assert (c != 1.0) == model.get("learn_curvature", False)
        assert float(lorentz.violation(torch.from_numpy(embeddings.points), curvature=c).max()) < 1e-9


def test_exported_points_are_those_that_training_evaluated(run, tiny_base, sample_descriptions) -> None:
    result = run(settings_of(tiny_base))
    embeddings = inference.TextEmbedder.load(result.best, "cpu").embed_codes(sample_descriptions)
    points = torch.from_numpy(embeddings.points)
    largest = float(lorentz.pairwise_distance(points, points).max())
    assert largest == pytest.approx(result.metrics["largest"], rel=1e-3)


def test_the_next_stage_starts_from_the_weights_of_the_one_before(run, tiny_base: Path) -> None:
    first = run(settings_of(tiny_base))
    still = STAGE.model_copy(update={"name": "second", "after": "first", "epochs": 1, "learning_rate": 1e-12})
    second = run(settings_of(tiny_base), still, start_from=first.best.parent)
    for name, value in state_of(first.best).items():
        torch.testing.assert_close(state_of(second.last)[name], value, msg=name, atol=1e-6, rtol=1e-4)


def test_weights_of_another_shape_or_a_damaged_checkpoint_are_refused(run, tiny_base: Path, tmp_path: Path) -> None:
    first = run(settings_of(tiny_base))
    next_stage = STAGE.model_copy(update={"name": "second", "after": "first"})
    wider = settings_of(tiny_base)
    wider = wider.model_copy(update={"model": wider.model.model_copy(update={"embedding_dim": 9})})
    with pytest.raises(ModelError, match="trained with other model settings"):
        run(wider, next_stage, start_from=first.best.parent)
    first.best.write_bytes(first.best.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        run(settings_of(tiny_base), next_stage, start_from=first.best.parent)
    with pytest.raises(ModelError, match="no finished checkpoint"):
        run(settings_of(tiny_base), next_stage, start_from=tmp_path / "nowhere")


def test_temperatures_are_learned_only_when_asked(run, tiny_base: Path) -> None:
    fixed = run(settings_of(tiny_base, learn_query_temperature=False), place="fixed").history[-1]
    learned = run(settings_of(tiny_base, learn_temperature=True), place="learned").history[-1]
    assert fixed["temperature"] == 0.5
    assert fixed["query_temperature"] == 0.25
    assert learned["temperature"] != 0.5
    assert learned["query_temperature"] != 0.25


def test_in_batch_negatives_and_zero_weights_change_what_is_computed(run, tiny_base: Path) -> None:
    short = STAGE.model_copy(update={"epochs": 1})
    plain = run(settings_of(tiny_base), short, place="plain")
    wide = run(settings_of(tiny_base, in_batch_negatives=True), short, place="wide")
    assert wide.history[0]["train/contrastive"] > plain.history[0]["train/contrastive"]
    bare = run(settings_of(tiny_base, query=0, radius=0, balance=0), short, place="bare")
    logged = {name for name in bare.history[0] if name.startswith("train/")}
    assert logged == {"train/contrastive", "train/hierarchy", "train/loss"}


@pytest.mark.parametrize("blocks", [None, 1])
def test_one_sector_without_any_entry_or_phrase_trains(sample_descriptions, tiny_base, tmp_path, blocks) -> None:
    sector = sample_descriptions.filter(pl.col("code").str.starts_with("11")).with_columns(
        examples=pl.lit(None, dtype=pl.String), excluded_codes=pl.lit([], dtype=pl.List(pl.String))
    )
    nothing = {"code": pl.String, "entry": pl.String, "split": pl.String}
    result = training.train_stage(
        STAGE.model_copy(update={"epochs": 1}),
        settings_of(tiny_base, {"trainable_blocks": blocks}),
        descriptions=sector,
        index_entries=pl.DataFrame(schema=nothing),
        phrases=pl.DataFrame(schema={"phrase": pl.String, "code": pl.String, "under": pl.String}),
        token_cache=tmp_path / "token_cache",
        hidden_cache=tmp_path / "hidden",
        directory=tmp_path / "stage",
        start_from=None,
        metrics=lambda distances: {},
        on_epoch=lambda epoch, values: None,
    )
    assert "train/query" not in result.history[0]
    assert result.history[0]["train/hierarchy"] > 0


def test_hidden_states_are_computed_once_and_old_ones_removed(run, tiny_base: Path, tmp_path: Path, caplog) -> None:
    short = STAGE.model_copy(update={"epochs": 1})
    settings = settings_of(tiny_base, {"trainable_blocks": 1})
    with caplog.at_level("INFO"):
        run(settings, short)
        assert "Computing hidden states" in caplog.text
        first = list((tmp_path / "hidden").iterdir())
        caplog.clear()
        run(settings.model_copy(update={"seed": 5}), short)
        assert "Computing hidden states" not in caplog.text
        run(settings.model_copy(update={"tokens": settings.tokens.model_copy(update={"title": 10})}), short)
    assert len(first) == len(list((tmp_path / "hidden").iterdir())) == 1
    assert first != list((tmp_path / "hidden").iterdir())


def test_held_out_pairs_and_queries_are_never_trained_on(
    sample_descriptions, sample_entries, phrases, tiny_base
) -> None:
    from naics_pipeline.taxonomy.tree import Tree, excluded_matrix
    from naics_pipeline.text_model.data import StageBatches, query_table

    tree = Tree.from_codes(sample_descriptions["code"].to_list())
    table = query_table(sample_entries, phrases, 0.05)
    held_out = {text.normalise(entry) for entry in sample_entries.filter(split="held_out")["entry"]}
    assert not held_out & {text.normalise(query) for query in table["text"]}
    assert 0.01 < table["held_out"].mean() < 0.1
    inputs = SimpleNamespace(
        tree=tree,
        excluded=excluded_matrix(sample_descriptions, tree),
        query_held_out=table["held_out"].to_numpy(),
    )
    batches = StageBatches(inputs, STAGE, settings_of(tiny_base).training, seed=1)
    validation = batches.validation()
    kept = set(zip(validation["anchor"].tolist(), validation["positive"].tolist(), strict=True))
    kept |= {(positive, anchor) for anchor, positive in kept}
    trained, queries = set(), set()
    for epoch in range(20):
        batches.current_epoch = lambda now=epoch: now
        for batch in batches:
            trained |= set(zip(batch["anchor"].tolist(), batch["positive"].tolist(), strict=True))
            queries |= set(batch["query"].tolist())
    assert len(kept) > 10
    assert not kept & trained
    assert not queries & set(validation["query"].tolist())
