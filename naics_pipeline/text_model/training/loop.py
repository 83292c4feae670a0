"""Trains one stage: from the checkpoint of the stage before to the best and last of this one, resuming after a kill."""

import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from naics_pipeline.files import alone_in
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.checkpoints import BEST, LAST, load_weights, read_stage
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.device import reproducible, resolve
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.inference import TextEmbedder
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training.batches import Epochs, Plan, epochs_of, validation_batch
from naics_pipeline.text_model.training.inputs import KIND_NAMES, TrainingInputs, load_inputs
from naics_pipeline.text_model.training.launch import EndAtOnce, together
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline.text_model.training.processes import leader_first, world
from naics_pipeline.text_model.training.report import EpochReport, OnEpoch
from naics_pipeline.text_model.training.run import LIGHTNING, KeepBest, Run, stage_key, work_directory
from naics_pipeline.text_model.training.validation import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every process of a stage has to know; each reads and writes the same places.

    Attributes:
        frames: descriptions, index_entries, and the activity phrases of cross-reference statements (phrase, code,
            under).
        token_cache, hidden_cache: directories of the caches.
        directory: of the stage.
        start_from: directory of the stage before; None for the first.
    """

    stage: Stage
    settings: Settings
    frames: dict[str, pl.DataFrame]
    token_cache: Path
    hidden_cache: Path
    directory: Path
    start_from: Path | None


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
    """Trains a stage and puts its best and last checkpoint and settings.yaml into `directory`.

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
    frames = {"descriptions": descriptions, "index_entries": index_entries, "phrases": phrases}
    job = Job(stage, settings, frames, token_cache, hidden_cache, directory, start_from)
    with alone_in(directory, "trains this stage"):
        with together(settings, job):
            module, report, run = fit(job, metrics, on_epoch)
        if shortfall := module.state.shortfall():
            logger.warning("Stage %s: %s", stage.name, shortfall)
        run.finish(module, report.history, directory)
        return _result(module, report, directory)


@reproducible()
def fit(job: Job, metrics: Metrics, on_epoch: OnEpoch) -> tuple[StageModule, EpochReport, Run]:
    """One process's part in the training of a stage."""
    stage, settings, frames = job.stage, job.settings, job.frames
    start_key = None if job.start_from is None else read_stage(job.start_from)["key"]
    base = locate(settings.model.base, settings.model.base_sha256)
    key = stage_key(stage, settings, frames, base, start_key)
    torch.manual_seed(settings.seed)
    model = TextModel(base, settings, frames["descriptions"]["code"].to_list()).to(resolve(settings.accelerator))
    with leader_first():
        inputs = load_inputs(
            **frames, settings=settings, token_cache=job.token_cache, hidden_cache=job.hidden_cache, model=model
        )
    module = _module(model, Plan.of(inputs, stage, settings), metrics, job.start_from)
    # Not before: a stage that cannot begin leaves no trace.
    with leader_first():
        work = work_directory(job.directory, key)
    report = EpochReport(stage.name, epochs_of(stage, settings), on_epoch)
    run = Run(key, stage, settings, work)
    _fit(module, report, run)
    return module, report, run


def _module(model: TextModel, plan: Plan, metrics: Metrics, start_from: Path | None) -> StageModule:
    """A module about to take its first step, with the weights of the stage before or else where the base stands."""
    # The last step of an epoch takes what batches are left.
    steps = -(-len(plan) // plan.settings.training.accumulate) * epochs_of(plan.stage, plan.settings)
    module = StageModule(model, plan, steps, metrics).to(model.offset.device)
    if start_from is not None:
        before = load_weights(model, start_from / BEST)
        module.objective.load_state_dict(before.part("objective."))
        return module
    module.tables.renew(model, to_keep=True)
    vectors, code = module.tables.short.values[torch.from_numpy(plan.queries)], plan.inputs.short.code[plan.queries]
    model.fusion.start_from(vectors, torch.from_numpy(code))
    return module


def _fit(module: StageModule, report: EpochReport, run: Run) -> None:
    """Trains to the end of the stage, from the last epoch that an unfinished run left."""
    resume = ModelCheckpoint(run.work, LIGHTNING, save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [report, KeepBest(run, report), *_early_stopping(module.settings), resume]
    if world() > 1:
        callbacks.append(EndAtOnce())
    trainer = _trainer(module.settings, report.epochs, callbacks, run.work)
    if run.unfinished:
        logger.info("Stage %s goes on from its last finished epoch", module.plan.stage.name)
    trainer.fit(
        module,
        DataLoader(Epochs(module.plan, module.begin_epoch), batch_size=None),
        # One batch, whose tensors the loader must not stack.
        DataLoader([validation_batch(module.plan)], batch_size=None),  # type: ignore[arg-type]
        ckpt_path=run.unfinished,
        weights_only=True,
    )


def _result(module: StageModule, report: EpochReport, directory: Path) -> StageResult:
    """What the best checkpoint says of all codes and short texts."""
    plan, model = module.plan, module.model
    device = resolve(plan.settings.accelerator)
    module.to(device)
    if report.best_epoch() != len(report.history) - 1 or not module.tables.fresh or model.encoder.halves:
        load_weights(model, directory / BEST)
        module.tables.renew(model, to_keep=True)
    short = module.tables.short.values
    plan.inputs.cache.keep_short_vectors(model, plan.inputs.short.tokens, short)
    embedder = TextEmbedder(model, plan.settings, plan.stage.name, device)
    return StageResult(
        best=directory / BEST,
        last=directory / LAST,
        metrics=report.history[report.best_epoch()],
        history=report.history,
        codes=embedder.codes(plan.inputs.tree.codes, module.tables.code_vectors()),
        places=places_of(embedder, plan.inputs, short),
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


def _strategy() -> DDPStrategy | str:
    if world() == 1:
        return "auto"
    # All processes score the same batches, and the first one's metrics count.
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
    # A step may leave out a channel's adapter; tables are equal by what is read into them.
    environment = LightningEnvironment()
    return DDPStrategy(cluster_environment=environment, find_unused_parameters=True, forward_sync_buffers=False)


def _early_stopping(settings: Settings) -> list[Callback]:
    patience = settings.training.early_stopping_patience
    return [] if patience is None else [EarlyStopping("val/loss", patience=patience)]


def _trainer(settings: Settings, epochs: int, callbacks: list[Callback], work: Path) -> lightning.Trainer:
    device = resolve(settings.accelerator).type
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    return lightning.Trainer(
        default_root_dir=str(work),
        max_epochs=epochs,
        accelerator="gpu" if device == "cuda" else device,
        devices=settings.training.devices,
        num_nodes=settings.training.nodes,
        strategy=_strategy(),
        precision="32-true",  # the encoder knows better: see `TextEncoder`
        gradient_clip_val=settings.training.gradient_clip,
        accumulate_grad_batches=settings.training.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
    )
