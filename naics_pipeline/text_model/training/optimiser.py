"""The optimiser of a stage: AdamW, with a rate that warms up and then falls as a cosine."""

import math
from typing import Any

import torch

from naics_pipeline.settings import Training
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.training.batches import adapter_rate


def optimiser(model: TextModel, objective: Objective, stage: Stage, settings: Training, steps: int) -> dict[str, Any]:
    """Optimiser and schedule, as Lightning takes them: adapters at a rate of their own, no decay of what is no matrix.

    Args:
        steps: of the optimiser, in the whole stage.
    """
    rate, adapters = stage.learning_rate, adapter_rate(stage, settings)
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    encoder = [p for name, p in named if name.startswith("encoder.")]
    fusion = [p for name, p in named if not name.startswith("encoder.")]
    groups = [
        {"params": encoder if adapters else [], "lr": rate * adapters},
        {"params": [p for p in fusion if p.ndim > 1], "lr": rate},
        {"params": [*learned, *(p for p in fusion if p.ndim <= 1)], "lr": rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=settings.weight_decay)
    warmup = max(1, round(settings.warmup_fraction * steps))

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
