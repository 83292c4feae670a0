"""A run of a stage on disk: what names it, what an unfinished one leaves, and how a finished one takes its place."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import yaml
from pytorch_lightning.callbacks import Callback

from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.base import weights_sha256
from naics_pipeline.text_model.checkpoints import BEST, LAST, Checkpoint, write_checkpoint
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline.text_model.training.processes import leads
from naics_pipeline.text_model.training.report import EpochReport
from naics_pipeline.text_model.version import WITHOUT_EFFECT, code_version

LIGHTNING = "last"
"""Name of the file that Lightning resumes from."""


def stage_key(
    stage: Stage, settings: Settings, frames: dict[str, pl.DataFrame], base: Path, start_key: str | None
) -> str:
    """A hash of all that a stage's checkpoint depends on.

    It covers the code, the stage's file, settings, texts, the weights of the base, and the stage it starts from; not on
    how many devices it runs, so that a run may go on with more or fewer.

    Args:
        base: directory of the located base model.
        start_key: key of the stage before.
    """
    sections = {"seed", "taxonomy", "tokens", "model", "objective", "training"}
    read = settings.model_dump(mode="json", include=sections, exclude={"training": set(WITHOUT_EFFECT)})
    contents = {name: frame.to_dict(as_series=False) for name, frame in frames.items()}
    return fingerprint(code_version(), stage.model_dump(mode="json"), read, contents, weights_sha256(base), start_key)


def work_directory(directory: Path, key: str) -> Path:
    """Where an unfinished run keeps its files, for its owner alone; leftovers of other runs are removed."""
    work = directory / f".unfinished-{key}"
    for other in (*directory.glob(".unfinished-*"), *directory.glob(".finished-*")):
        if other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    # Lightning's own file is read back from here, and no one else may put another in its place.
    work.chmod(0o700)
    return work


@dataclass(frozen=True)
class Run:
    """One run of a stage.

    Attributes:
        key: `stage_key`.
        work: `work_directory`.
    """

    key: str
    stage: Stage
    settings: Settings
    work: Path

    @property
    def unfinished(self) -> Path | None:
        """The file to resume from, where there is one."""
        path = self.work / f"{LIGHTNING}.ckpt"
        # The best epoch's weights are written first: without them it is no run that could be finished.
        return path if path.is_file() and (self.work / BEST).is_file() else None

    def write(self, path: Path, module: StageModule, epoch: int, metrics: dict[str, float]) -> None:
        """The checkpoint of a module as it is after an epoch with these metrics."""
        record = {
            "key": self.key,
            "stage": self.stage.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "epoch": epoch,
            "metrics": metrics,
        }
        write_checkpoint(path, Checkpoint.of(module.model, module.objective, record))

    def finish(self, module: StageModule, history: list[dict[str, float]], directory: Path) -> None:
        """Puts the stage in its place.

        A stage is what its best checkpoint says, and that takes its place in one step: before it the old stage stands,
        after it the new one. The unfinished run stays complete until then, so that it can be finished once more.
        """
        self.write(directory / LAST, module, len(history) - 1, history[-1])
        with replacing(directory / BEST) as temporary:
            shutil.copyfile(self.work / BEST, temporary)
        shown: dict[str, Any] = {"key": self.key, "stage": self.stage.model_dump(mode="json")}
        shown["settings"] = self.settings.model_dump(mode="json")
        with replacing(directory / "settings.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(shown, sort_keys=False))
        # Renamed first: half of an unfinished run must not look like one.
        shutil.rmtree(self.work.rename(directory / f".finished-{self.key}"))


class KeepBest(Callback):
    """Keeps the weights of the best epoch so far."""

    def __init__(self, run: Run, report: EpochReport) -> None:
        self.run, self.report = run, report

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        module.last_good = self.run.unfinished

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        history = self.report.history
        if leads() and self.report.best_epoch() == len(history) - 1:
            self.run.write(self.run.work / BEST, module, len(history) - 1, history[-1])
        # Lightning writes its own file after this.
        module.last_good = self.run.work / f"{LIGHTNING}.ckpt"
