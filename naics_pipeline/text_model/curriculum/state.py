"""Where a stage stands: the one object that samplers read the curriculum from, and that a checkpoint keeps."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from naics_pipeline.text_model.curriculum.negatives.policy import GRADES
from naics_pipeline.text_model.curriculum.stage import Stage


def _none() -> np.ndarray:
    return np.zeros(GRADES, dtype=np.int64)


@dataclass
class CurriculumState:
    """The state of a stage that trains.

    Attributes:
        epoch: from 0.
        drawn, short: (9,) negatives drawn so far by their hardness, and how many each bucket fell short of its share.
    """

    epoch: int = 0
    drawn: np.ndarray = field(default_factory=_none)
    short: np.ndarray = field(default_factory=_none)

    def count(self, drawn: np.ndarray, short: np.ndarray) -> None:
        """Adds what a batch that was trained on had drawn."""
        self.drawn += drawn
        self.short += short

    def logged(self) -> dict[str, float]:
        """Share of all negatives drawn so far by bucket."""
        total = max(1, int(self.drawn.sum()))
        return {f"negatives/bucket_{bucket}": float(n) / total for bucket, n in enumerate(self.drawn) if n}

    def shortfall(self, stage: Stage) -> str | None:
        """What buckets that fell short lack of what the stage asks of them, as one sentence; None where none did."""
        short = {bucket: int(missing) for bucket, missing in enumerate(self.short) if missing}
        if not short:
            return None
        asked = self.drawn.sum() / stage.k_negatives
        parts = [f"bucket {b} lacked {n} of {int(stage.quotas[b] * asked)}" for b, n in short.items()]
        return f"{'; '.join(parts)} negatives, which other buckets gave instead"

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "drawn": self.drawn.tolist(), "short": self.short.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.drawn, self.short = np.array(state["drawn"]), np.array(state["short"])
