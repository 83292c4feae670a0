"""Texts, a stage and settings small enough for a test, and a module that is about to take its first step."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy
import torch

from naics_pipeline.settings import Adapter, Adapters, Model, Objective, Settings, Tokens, Training
from naics_pipeline.taxonomy import text
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.text_model import checkpoints
from naics_pipeline.text_model.curriculum.stage import (
    Anneal,
    Buckets,
    FalseNegatives,
    Mined,
    NearFar,
    Phase,
    RouterGuided,
    Stage,
    TreeDistance,
)
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.fusion import RIDGE
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective as Losses
from naics_pipeline.text_model.training.batches import Batch, Plan, epoch
from naics_pipeline.text_model.training.inputs import TrainingInputs
from naics_pipeline.text_model.training.loop import StageResult
from naics_pipeline.text_model.training.module import StageModule

STAGE = Stage(
    name="first",
    positive_levels=(5, 6),
    positive_distance_max=3.0,
    negatives=Buckets(difficulty_buckets=(1, 2, 6), bucket_percentages={1: 0.5, 2: 0.25, 6: 0.25}),
    k_negatives=4,
    epochs=3,
    learning_rate=0.003,
)
DYNAMIC = STAGE.model_copy(
    update={
        "negatives": None,
        "attraction": 0.1,
        "rank": 0.1,
        "phases": (
            Phase(name="structure", until=0.3, negatives=TreeDistance(mask_siblings=True)),
            Phase(
                name="refinement",
                until=0.6,
                negatives=Mined(rest=RouterGuided(share=Anneal(start=0.1, end=0.5), rest=TreeDistance())),
            ),
            Phase(
                name="clusters",
                until=1.0,
                negatives=Mined(rest=NearFar()),
                false_negatives=FalseNegatives(mode="hybrid", clusters=8),
            ),
        ),
    }
)
ONE_EPOCH = STAGE.model_copy(update={"epochs": 1})
ALL = Adapters(description=Adapter(), excluded=Adapter())
"""In all blocks, for every channel."""
SMALL = {"embedding_dim": 8, "expert_dim": 16, "adapters": ALL}
CACHED = {"adapters": Adapters(description=Adapter(blocks=1), excluded=Adapter(blocks=1))}

SECTORS = ["23", "51", "72"]
Frames = dict[str, pl.DataFrame]


def all_frames(books: Workbooks) -> Frames:
    """What `train_stage` and `load_inputs` read of a source."""
    entries = text.index_entries(books, 0.2, 0.08)
    descriptions = text.descriptions(books, entries)
    phrases = text.activity_phrases(books, descriptions, entries)
    return {"descriptions": descriptions, "index_entries": entries, "phrases": phrases}


def few_frames(books: Workbooks) -> Frames:
    """Three sectors of it, as if there were no others."""
    frames = all_frames(books)
    inside = pl.col("code").str.slice(0, 2).is_in(SECTORS)
    descriptions = frames["descriptions"].filter(inside)
    codes = descriptions["code"].to_list()
    cited = pl.col("excluded_codes").list.eval(pl.element().filter(pl.element().is_in(codes)))
    return {
        "descriptions": descriptions.with_columns(cited),
        "index_entries": frames["index_entries"].filter(inside),
        "phrases": frames["phrases"].filter(inside, pl.col("under").is_in(codes)),
    }


def settings_of(tiny_base: Path, model: dict[str, Any] | None = None, **objective: Any) -> Settings:
    """Four batches of queries an epoch, eight dimensions, every term that a built-in curriculum has, in float32."""
    return Settings(
        accelerator="cpu",
        tokens=Tokens(short=12, description=12, excluded=12),
        model=Model(**({"base": str(tiny_base), **SMALL} | (model or {}))),
        objective=Objective(**{"temperature": 0.5, "contrastive": 0.03, "radius": 0.05, **objective}),
        training=Training(
            pairs_per_batch=16,
            queries_per_batch=32,
            queries_per_epoch=128,
            variations=0,
            live_codes=40,
            precision="32-true",
        ),
    )


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    """The settings with other values in one section."""
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def whole(settings: Settings, **training: Any) -> Settings:
    """An epoch is every short text, with made-up ones beside them."""
    return changed(settings, "training", **({"queries_per_epoch": None, "variations": 0.25} | training))


def first_epoch(inputs: TrainingInputs, stage: Stage, settings: Settings, number: int = 0) -> list[Batch]:
    """The batches of one epoch."""
    return list(epoch(Plan.of(inputs, stage, settings), CurriculumState(number)))


def module_of(inputs: TrainingInputs, settings: Settings, stage: Stage = STAGE) -> tuple[StageModule, list[Batch]]:
    """A stage's module as it is before its first step, in eval mode, and the batches of its first epoch."""
    torch.manual_seed(0)
    model = TextModel(Path(settings.model.base), settings, inputs.tree.codes.tolist())
    plan = Plan.of(inputs, stage, settings)
    module = StageModule(model, plan, 10, lambda distances: {})
    module.tables.renew(model, to_keep=True)
    model.fusion.start_from(module.tables.short.values, torch.from_numpy(inputs.short.code))
    return module.eval(), list(epoch(plan, module.state))


def discriminants(vectors: np.ndarray, code: np.ndarray, dim: int) -> np.ndarray:
    """(width, dim) directions in which codes differ most against how texts of one code differ, by scipy."""
    centred = vectors - vectors.mean(0)
    own = np.stack([centred[code == one].mean(0) for one in code])
    within, between = (part.T @ part for part in (centred - own, own))
    ridge = RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    found: np.ndarray = scipy.linalg.eigh(between, within + ridge)[1][:, ::-1][:, :dim]
    return found


def rows_of(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """Token ids of each query of a batch."""
    values, offsets = batch["query_values"].tolist(), batch["query_offsets"].tolist()
    return [tuple(values[begin:end]) for begin, end in itertools.pairwise(offsets)]


def total_loss(module: StageModule, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch, its texts read afresh."""
    torch.manual_seed(1)
    return module.objective.total(module.read_and_score(batch))


def gradients(module: StageModule) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}


def left_rows(batch: dict[str, torch.Tensor], position: int) -> list[int]:
    """Examples that are left out where a query of a batch is scored."""
    return batch["left_row"][batch["left_of"] == position].tolist()


def example_set(inputs: TrainingInputs, code: int) -> list[int]:
    """Rows of a code's examples."""
    examples = inputs.short.examples
    return [int(row) for row in examples[inputs.short.code[examples] == code]]


def as_numpy(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return checkpoints.read_checkpoint(checkpoint).tensors


_whole_total = Losses.total


def loss_of(self: Losses, terms: dict[str, torch.Tensor], validation_losses: Iterator[float]) -> torch.Tensor:
    """The loss as it is in training, and one said beforehand in validation."""
    return _whole_total(self, terms) if torch.is_grad_enabled() else torch.tensor(next(validation_losses))


def trained_terms(result: StageResult) -> set[str]:
    """The terms that a stage's first epoch was trained on."""
    return {name.removeprefix("train/") for name in result.history[0] if name.startswith("train/")} - {"loss"}
