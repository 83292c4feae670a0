"""What stops a training at once."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from naics_pipeline.errors import TrainingError
from naics_pipeline.text_model.training.batches import Batch

if TYPE_CHECKING:
    from naics_pipeline.text_model.training.module import StageModule


def refuse_non_finite(module: "StageModule", loss: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
    """Raises where a loss is not finite.

    Raises:
        TrainingError: names the stage, the terms, the batch's codes, the learning rate and the last good checkpoint.
    """
    if bool(torch.isfinite(loss)):
        return
    bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
    of = batch["anchor"] if len(batch["anchor"]) else batch["query_code"]
    codes = module.plan.inputs.tree.codes[of.cpu().numpy()]
    # Of the adapters, where these learn, and of all the rest.
    rates = sorted({f"{group['lr']:.3g}" for group in module.optimizers().param_groups})  # type: ignore[union-attr]
    raise TrainingError(
        f"stage {module.plan.stage.name}, epoch {module.current_epoch}: the loss is {float(loss.detach())} (terms: "
        f"{', '.join(bad)}) at learning rate {' and '.join(rates)}, on a batch of codes {', '.join(codes[:20])}. "
        f"Last good checkpoint: {module.last_good or 'none yet'}. Lower learning_rate in the stage's file, or raise "
        "temperature."
    )
