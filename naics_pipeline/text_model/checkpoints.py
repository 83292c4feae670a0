"""Checkpoints: the trained weights of a stage, and the record beside them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from torch import Tensor

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective


def read_stage(directory: Path) -> dict[str, Any]:
    """What settings.yaml of a finished stage records: key, stage, settings, metrics.

    Raises:
        ModelError: the stage has not been trained.
    """
    path = directory / "settings.yaml"
    if not path.is_file() or not (directory / "best.ckpt").is_file():
        raise ModelError(
            f"{directory}: this stage has no finished checkpoint. Materialize stage_{directory.name} first."
        )
    record: dict[str, Any] = yaml.safe_load(path.read_text())
    return record


def load_weights(model: TextModel, checkpoint: Path) -> None:
    """Puts the trained weights of a checkpoint into a model with the same settings and codes.

    Raises:
        ModelError: the file cannot be read, or was trained with another shape of model or for other codes.
    """
    content = read_checkpoint(checkpoint)
    if content.get("codes") != model.codes:
        raise ModelError(f"{checkpoint}: trained for other codes than these. Train the stages before it again.")
    state = {name: value for name, value in _part(content["state_dict"], "model.").items() if name[:4] != "log_"}
    expected = {name: value.shape for name, value in model.trained_state().items()}
    if {name: value.shape for name, value in state.items()} != expected:
        raise ModelError(
            f"{checkpoint}: trained with other model settings ({content['settings']['model']}). "
            "Train the stages before it again, or go back to those settings."
        )
    model.load_state_dict(state, strict=False)


def load_objective(objective: Objective, checkpoint: Path) -> None:
    """Puts the learned scalars of a checkpoint into an objective."""
    objective.load_state_dict(_part(read_checkpoint(checkpoint)["state_dict"], "objective."))


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint. Materialize the stage that writes it first.")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError) as error:
        raise ModelError(f"{path}: the checkpoint is damaged ({error}). Materialize its stage again.") from error
    return content
