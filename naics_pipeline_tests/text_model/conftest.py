"""What several tests of the text model read: inputs of the sample, and a stage that was trained once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from naics_pipeline.settings import Settings
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training import loop, report
from naics_pipeline.text_model.training.batches import Batch
from naics_pipeline.text_model.training.inputs import TrainingInputs, load_inputs
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline_tests.text_model.small import STAGE, Frames, all_frames, few_frames, module_of, settings_of, whole

Run = Callable[..., loop.StageResult]
InputsOf = Callable[..., TrainingInputs]


@pytest.fixture(scope="session")
def frames(sample_books) -> Frames:
    """Texts of three sectors."""
    return few_frames(sample_books)


@pytest.fixture(scope="session")
def whole_sample(sample_books) -> Frames:
    """Texts of the whole sample."""
    return all_frames(sample_books)


@pytest.fixture(scope="session")
def train_in(frames) -> Run:
    """Trains a stage inside a directory."""

    def train(
        root: Path,
        settings: Settings,
        stage: Stage = STAGE,
        start_from: Path | None = None,
        place: str | None = None,
        on_epoch: report.OnEpoch = lambda epoch, values: None,
        **others: pl.DataFrame,
    ) -> loop.StageResult:
        return loop.train_stage(
            stage,
            settings,
            **(frames | others),
            token_cache=root / "token_cache",
            hidden_cache=root / "hidden",
            directory=root / "stages" / (place or stage.name),
            start_from=start_from,
            metrics=lambda distances: {"largest": float(distances.max())},
            on_epoch=on_epoch,
        )

    return train


@pytest.fixture
def run(train_in, tmp_path) -> Run:
    """Trains a stage in a directory of the test's own."""

    def train(settings: Settings, stage: Stage = STAGE, start_from: Path | None = None, **others: Any) -> Any:
        return train_in(tmp_path, settings, stage, start_from, **others)

    return train


@pytest.fixture(scope="session")
def finished(train_in, tiny_base, tmp_path_factory) -> loop.StageResult:
    """Three epochs of STAGE with the plain settings; nobody writes into its directory."""
    return train_in(tmp_path_factory.mktemp("finished"), settings_of(tiny_base))


@pytest.fixture(scope="session")
def inputs_of(frames, tmp_path_factory) -> InputsOf:
    """What training reads with these settings, of the given texts; made once for equal settings."""
    made: dict[tuple[str, bool, int], TrainingInputs] = {}

    def load(settings: Settings, texts: Frames = frames) -> TrainingInputs:
        own = settings.model_dump_json(include={"tokens", "model", "training"})
        key = own, settings.reads_base, texts["descriptions"].height
        if key not in made:
            places = tmp_path_factory.mktemp("inputs")
            made[key] = load_inputs(
                **texts,
                settings=settings,
                token_cache=places / "token_cache",
                hidden_cache=places / "hidden",
                model=TextModel(Path(settings.model.base), settings, []),
            )
        return made[key]

    return load


@pytest.fixture
def one_step(inputs_of, tiny_base: Path) -> tuple[StageModule, list[Batch]]:
    settings = whole(settings_of(tiny_base))
    return module_of(inputs_of(settings), settings)


@pytest.fixture
def stage_directory(finished, tmp_path: Path) -> Path:
    """A copy of a finished stage, to start from or to damage."""
    return shutil.copytree(finished.best.parent, tmp_path / "stages" / "first")
