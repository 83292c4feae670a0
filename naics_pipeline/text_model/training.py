"""Trains one stage: from the checkpoint of the stage before to the best and last of this one, resuming after a kill."""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from naics_pipeline.settings import Settings
from naics_pipeline.storage import fingerprint, replacing
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.checkpoints import load_weights, read_stage
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.data import KIND_NAMES, StageBatches, TrainingInputs, load_inputs
from naics_pipeline.text_model.device import resolve
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.inference import TextEmbedder
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.module import Metrics, StageModule

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class StageResult:
    """What a trained stage leaves.

    Attributes:
        best, last: checkpoints; best by the loss on held-out pairs and queries.
        metrics: of the epoch that `best` was saved after.
        history: every epoch's metrics, in order.
        codes: points of all codes, by `best`.
        places: points of the texts that lie below them: titles, entries, phrases and sentences (kind, text), by `best`.
        embedder: `best` at work, for any other text.
    """

    best: Path
    last: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    codes: Embeddings
    places: Embeddings
    embedder: TextEmbedder


def stage_key(stage: Stage, settings: Settings, frames: dict[str, pl.DataFrame], start_key: str | None) -> str:
    """A hash of all that a stage's checkpoint depends on: its file, settings, texts, and the stage it starts from."""
    read = settings.model_dump(mode="json", include={"seed", "taxonomy", "tokens", "model", "objective", "training"})
    contents = {name: frame.to_dict(as_series=False) for name, frame in frames.items()}
    return fingerprint(stage.model_dump(mode="json"), read, contents, start_key)


def train_stage(
    stage: Stage,
    settings: Settings,
    *,
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    phrases: pl.DataFrame,
    token_cache: Path,
    hidden_cache: Path,
    directory: Path,
    start_from: Path | None,
    metrics: Metrics,
    on_epoch: OnEpoch,
) -> StageResult:
    """Trains a stage and puts best.ckpt, last.ckpt and settings.yaml into `directory`.

    An unfinished run with the same key goes on from its last epoch; files of a finished one stay in place until the new
    ones are complete.

    Args:
        phrases: activity phrases of cross-reference statements (phrase, code, under).
        token_cache, hidden_cache: directories of the caches.
        start_from: directory of the stage before; None for the first.
        metrics: (N, N) distances to named metrics, called after every epoch.
        on_epoch: receives each epoch's number, from 0, and metrics.
    Raises:
        TrainingError: the loss is not finite.
        ModelError: the base model or the checkpoint to start from cannot be used.
    """
    start_key = None if start_from is None else read_stage(start_from)["key"]
    frames = {"descriptions": descriptions, "index_entries": index_entries, "phrases": phrases}
    key = stage_key(stage, settings, frames, start_key)
    torch.manual_seed(settings.seed)
    base = locate(settings.model.base, settings.model.base_sha256)
    model = TextModel(base, settings, descriptions["code"].to_list())
    if start_from is not None:
        load_weights(model, start_from / "best.ckpt")
    device = resolve(settings.accelerator)
    model.to(device)
    inputs = load_inputs(
        descriptions,
        index_entries,
        phrases,
        settings,
        token_cache=token_cache,
        hidden_cache=hidden_cache,
        model=model,
    )
    batches = StageBatches(inputs, stage, settings)
    epochs = max(1, round(stage.epochs * settings.training.epochs_scale))
    steps = -(-len(batches) * epochs // settings.training.accumulate)
    module = StageModule(model, inputs, stage, steps, batches, metrics, settings.seed).to(device)
    if start_from is None:
        module.renew_tables()
        model.fusion.start_from(module.short.values[torch.from_numpy(batches.queries)])
    work = _work_directory(directory, key)
    report = EpochReport(stage.name, epochs, batches, on_epoch)
    # Two of them: `save_last` of one writes last.ckpt only after epochs that are the best so far.
    checkpoints = [
        ModelCheckpoint(work, name, monitor=monitor, save_on_train_epoch_end=True, enable_version_counter=False)
        for name, monitor in (("best", "val/loss"), ("last", None))
    ]
    trainer = _trainer(settings, epochs, [report, *_early_stopping(settings), *checkpoints], work)
    batches.current_epoch = lambda: trainer.current_epoch
    unfinished = work / "last.ckpt"
    if unfinished.is_file():
        logger.info("Stage %s goes on from its last finished epoch", stage.name)
    trainer.fit(
        module,
        DataLoader(batches, batch_size=None),
        # One batch, whose tensors the loader must not stack.
        DataLoader([module.validation], batch_size=None),  # type: ignore[arg-type]
        ckpt_path=str(unfinished) if unfinished.is_file() else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    shortfall = batches.sampler.shortfall()
    if shortfall:
        logger.warning("Stage %s: %s", stage.name, shortfall)
    best_epoch = _best_epoch(report.history)
    reached = report.history[best_epoch]
    record = {
        "key": key,
        "stage": stage.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "metrics": reached,
    }
    _finish(work, directory, record)
    module.to(device)
    if best_epoch != len(report.history) - 1 or not module.tables_are_fresh:
        load_weights(model, directory / "best.ckpt")
        module.renew_tables()
    embedder = TextEmbedder(model, settings, stage.name, device)
    return StageResult(
        best=directory / "best.ckpt",
        last=directory / "last.ckpt",
        metrics=reached,
        history=report.history,
        codes=embedder.codes(inputs.tree.codes, module.code_vectors()),
        places=places_of(embedder, inputs, module.short.values),
        embedder=embedder,
    )


def places_of(embedder: TextEmbedder, inputs: TrainingInputs, vectors: Tensor) -> Embeddings:
    """Points of all short texts, from their vectors (M, width): the places below the codes, with kind and text."""
    short = inputs.short
    columns = pl.DataFrame(
        {"kind": [KIND_NAMES[kind] for kind in short.kind], "text": short.texts},
        schema={"kind": pl.String, "text": pl.String},
    )
    return embedder.texts(inputs.tree.codes[short.code], vectors, columns)


def _best_epoch(history: list[dict[str, float]]) -> int:
    return min(range(len(history)), key=lambda epoch: history[epoch]["val/loss"])


def _work_directory(directory: Path, key: str) -> Path:
    """Where an unfinished run keeps its checkpoints; leftovers of runs with other settings are removed."""
    work = directory / f".unfinished-{key}"
    for other in directory.glob(".unfinished-*"):
        if other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _finish(work: Path, directory: Path, record: dict[str, Any]) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (work / name).replace(directory / name)
    with replacing(directory / "settings.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(record, sort_keys=False))
    shutil.rmtree(work)


def _early_stopping(settings: Settings) -> list[Callback]:
    patience = settings.training.early_stopping_patience
    return [] if patience is None else [EarlyStopping("val/loss", patience=patience)]


def _trainer(settings: Settings, epochs: int, callbacks: list[Callback], work: Path) -> lightning.Trainer:
    device = resolve(settings.accelerator).type
    precision = settings.training.precision
    if precision == "auto":
        precision = "bf16-mixed" if device == "cuda" else "32-true"
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    return lightning.Trainer(
        default_root_dir=str(work),
        max_epochs=epochs,
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        precision=precision,
        gradient_clip_val=settings.training.gradient_clip,
        accumulate_grad_batches=settings.training.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
    )


class EpochReport(Callback):
    """Tells log and caller of every epoch; its history survives a resume."""

    def __init__(self, stage: str, epochs: int, batches: StageBatches, on_epoch: OnEpoch) -> None:
        self.stage, self.epochs, self.batches, self.on_epoch = stage, epochs, batches, on_epoch
        self.history: list[dict[str, float]] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values["seconds"] = time.monotonic() - self.started
        values["learning_rate"] = float(trainer.optimizers[0].param_groups[1]["lr"])
        values |= {f"negatives/bucket_{bucket}": share for bucket, share in self.batches.sampler.shares().items()}
        self.history.append(values)
        shown = ("train/loss", "val/loss", "val/query_top1", "cophenetic_correlation", "parent_retrieval@1")
        logger.info(
            "%s epoch %d of %d, %.0f s: %s",
            self.stage,
            trainer.current_epoch + 1,
            self.epochs,
            values["seconds"],
            ", ".join(f"{name} {values[name]:.3f}" for name in shown if name in values),
        )
        self.on_epoch(trainer.current_epoch, values)
        if isinstance(module, StageModule):
            module.last_good = f"{trainer.default_root_dir}/last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])
