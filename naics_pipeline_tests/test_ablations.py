"""The ablations: every row can be trained, and one that was is kept."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablations
from naics_pipeline.settings import Settings
from naics_pipeline.taxonomy.tree import Tree, held_out_pairs
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training.batches import Plan
from naics_pipeline.text_model.training.inputs import load_inputs
from naics_pipeline.text_model.training.loop import train_stage
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.text_model.small import STAGE, all_frames, few_frames, settings_of

TEXT_ALONE = Stage(name=ablations.FIRST, contrastive=0, hierarchy=0, radius=0, epochs=1, learning_rate=0.003)


@pytest.fixture(scope="module")
def settings(tiny_base: Path, tmp_path_factory) -> Settings:
    curriculum = str(REPOSITORY / "conf" / "curriculum")
    root = str(tmp_path_factory.mktemp("data"))
    return settings_of(tiny_base).model_copy(update={"curriculum": curriculum, "data_dir": root})


@pytest.fixture(scope="module")
def bench(settings, sample_books) -> ablations.Bench:
    """Over a data directory with a first stage."""
    frames, root = few_frames(sample_books), Path(settings.data_dir)
    for name, file in (
        ("descriptions", "descriptions"),
        ("index_entries", "index_entries"),
        ("phrases", "activity_phrases"),
    ):
        frames[name].write_parquet(root / f"{file}.parquet")
    train_stage(
        TEXT_ALONE,
        settings,
        **frames,
        token_cache=root / "token_cache",
        hidden_cache=root / "hidden_states",
        directory=root / "stages" / ablations.FIRST,
        start_from=None,
        metrics=lambda distances: {},
        on_epoch=lambda epoch, values: None,
    )
    return ablations.Bench(settings)


def test_every_row_has_pairs_to_draw(settings, sample_books, tmp_path: Path) -> None:
    frames = all_frames(sample_books)
    model = TextModel(Path(settings.model.base), settings, [])
    places = {"token_cache": tmp_path / "tokens", "hidden_cache": tmp_path / "states"}
    inputs = load_inputs(**frames, settings=settings, model=model, **places)
    rows = ablations.rows_of(settings)
    assert len(ablations.rows_of(settings, short=True)[ablations.BUILT_IN].stages) == 1
    assert len({str(row) for row in rows.values()}) == len(rows)
    for name, row in rows.items():
        objective = settings.objective.model_copy(update=row.objective)
        for stage in row.stages:
            assert Plan.of(inputs, stage, settings.model_copy(update={"objective": objective})).training_pairs.any(), (
                name
            )


def test_a_row_is_trained_once_and_compared_with_the_first(bench, monkeypatch) -> None:
    one = STAGE.model_copy(update={"epochs": 1, "adapter_rate": 0.0})
    rows = {
        ablations.BUILT_IN: ablations.Row([one]),
        "without hierarchy": ablations.Row([one.model_copy(update={"hierarchy": 0.0})]),
    }
    trained: list[int] = []
    whole = ablations.train_stage

    def noted(stage: Stage, settings: Settings, **others):
        trained.append(settings.seed)
        return whole(stage, settings, **others)

    monkeypatch.setattr(ablations, "train_stage", noted)
    lines = list(ablations.table(bench, rows, [1, 2], final=False))
    assert trained == [1, 2, 1, 2]
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(rows)
    assert lines[2].count("–") == 2
    assert "[" in lines[3]
    assert list(ablations.table(bench, rows, [1, 2], final=False)) == lines
    assert len(trained) == 4
    # Held-out entries are read only where that is asked for.
    final = ablations.table(bench, {ablations.BUILT_IN: rows[ablations.BUILT_IN]}, [1], final=True)
    assert "held-out mixed top-1" in next(final)
    assert len(list(final)) == 2
    assert trained == [1, 2, 1, 2, 1]


def test_pairs_of_the_tree_itself_are_in_order(sample_tree: Tree) -> None:
    held_out = held_out_pairs(sample_tree, 0.05)
    apart = sample_tree.distance()
    assert ablations.pairs_in_order(apart, sample_tree, held_out) == 1
    assert ablations.pairs_in_order(-apart, sample_tree, held_out) == 0
    chance = np.random.default_rng(0).random(apart.shape)
    assert ablations.pairs_in_order(chance, sample_tree, held_out) == pytest.approx(0.5, abs=0.03)
