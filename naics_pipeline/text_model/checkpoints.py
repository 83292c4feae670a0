"""Checkpoints of a stage: one safetensors file holds the trained tensors and, as JSON in its header, all the rest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from naics_pipeline.errors import ModelError
from naics_pipeline.files import replacing
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective

BEST, LAST = "best.safetensors", "last.safetensors"
_HEADER = "naics-pipeline"


@dataclass(frozen=True)
class Checkpoint:
    """What a stage has learned.

    Attributes:
        tensors: by name, model.* and objective.*; the frozen base is not among them.
        record: key (of all that the stage depends on), stage, settings, codes, epoch, metrics; plain values.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    @classmethod
    def of(cls, model: TextModel, objective: Objective, record: dict[str, Any]) -> "Checkpoint":
        tensors = {f"model.{name}": value for name, value in model.trained_state().items()}
        tensors |= {f"objective.{name}": value for name, value in objective.state_dict().items()}
        return cls(tensors, {"codes": model.codes, **record})

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a name, by their names there."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes it as one file, which takes its place in one step."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_HEADER: json.dumps(checkpoint.record)}))


def read_checkpoint(path: Path) -> Checkpoint:
    """The content of a checkpoint, on the CPU; nothing in it is run.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    record = read_record(path)
    with safe_open(path, framework="pt") as file:
        return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, record)  # noqa: SIM118


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint alone.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint. Materialize the stage that writes it first.")
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: the checkpoint is damaged ({error}). Materialize its stage again.") from error
    return record


def read_stage(directory: Path) -> dict[str, Any]:
    """What the best checkpoint of a finished stage records: key, stage, settings, codes, epoch, metrics.

    Raises:
        ModelError: the stage has not been trained.
    """
    if not (directory / BEST).is_file():
        raise ModelError(
            f"{directory}: this stage has no finished checkpoint. Materialize stage_{directory.name} first."
        )
    return read_record(directory / BEST)


def load_weights(model: TextModel, path: Path) -> Checkpoint:
    """Puts the trained weights of a checkpoint into a model with the same settings and codes.

    Raises:
        ModelError: the file cannot be read, or was trained with another shape of model or for other codes.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.record.get("codes") != model.codes:
        raise ModelError(f"{path}: trained for other codes than these. Train the stages before it again.")
    state = checkpoint.part("model.")
    expected = {name: value.shape for name, value in model.trained_state().items()}
    if {name: value.shape for name, value in state.items()} != expected:
        raise ModelError(
            f"{path}: trained with other model settings ({checkpoint.record['settings']['model']}). "
            "Train the stages before it again, or go back to those settings."
        )
    model.load_state_dict(state, strict=False)
    return checkpoint
