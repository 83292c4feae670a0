"""What log and caller are told of every epoch."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback

from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline.text_model.training.processes import told

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]
_SHOWN = ("train/loss", "val/loss", "val/query_top1", "cophenetic_correlation", "parent_retrieval@1")


class EpochReport(Callback):
    """Tells log and caller of every epoch; its history survives a resume."""

    def __init__(self, stage: str, epochs: int, on_epoch: OnEpoch) -> None:
        self.stage, self.epochs, self.on_epoch = stage, epochs, on_epoch
        self.history: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values["seconds"] = time.monotonic() - self.started
        values["learning_rate"] = float(trainer.optimizers[0].param_groups[1]["lr"])
        values = told(values | module.state.logged(module.plan.stage))
        module.state.metrics = values
        self.history.append(values)
        logger.info(
            "%s epoch %d of %d, %.0f s: %s",
            self.stage,
            trainer.current_epoch + 1,
            self.epochs,
            values["seconds"],
            ", ".join(f"{name} {values[name]:.3f}" for name in _SHOWN if name in values),
        )
        self.on_epoch(trainer.current_epoch, values)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def best_epoch(self) -> int:
        """The one of the least loss on what was not trained on."""
        return min(range(len(self.history)), key=lambda epoch: self.history[epoch]["val/loss"])
