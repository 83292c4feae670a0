"""Where a stage stands: the one object that samplers and losses read the curriculum from; a checkpoint keeps it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from naics_pipeline.text_model.curriculum.negatives.policy import GRADES
from naics_pipeline.text_model.curriculum.stage import Anneal, Negatives, Phase, Stage

_KEPT = 512


def _none() -> np.ndarray:
    return np.zeros(GRADES, dtype=np.int64)


@dataclass
class CurriculumState:
    """The state of a stage that trains.

    Attributes:
        epoch: from 0; epochs: of the stage.
        metrics: of the last epoch.
        drawn, asked, short: (9,) negatives drawn so far by their hardness, how many of them each bucket was to give,
            and how many it fell short of that.
        clusters: (N,) of all codes, by the last clustering; None before the first.
        suspects: negatives so far that lay in the cluster of their anchor.
        look: what the model made of all codes when the epoch began, (N, N) by "points" and "gates": how far apart.
    """

    epoch: int = 0
    epochs: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    drawn: np.ndarray = field(default_factory=_none)
    asked: np.ndarray = field(default_factory=_none)
    short: np.ndarray = field(default_factory=_none)
    clusters: np.ndarray | None = None
    suspects: int = 0
    look: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _order: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def phase(self, stage: Stage) -> Phase:
        """The one that the epoch lies in."""
        begun = (phase for phase in stage.all_phases if self.epoch < phase.until * self.epochs - 1e-9)
        return next(begun, stage.all_phases[-1])

    def value(self, annealed: float | Anneal) -> float:
        """What it is in this epoch; where it follows a metric that is not known yet, its start."""
        if not isinstance(annealed, Anneal):
            return annealed
        if annealed.by == "epoch":
            now = self.epoch / max(1, self.epochs - 1)
        else:
            now = self.metrics.get(annealed.by, annealed.low)
        share = min(1.0, max(0.0, (now - annealed.low) / (annealed.high - annealed.low)))
        return annealed.start + share * (annealed.end - annealed.start)

    def see(self, by: str, apart: np.ndarray) -> None:
        """Takes in how far apart all codes are now, (N, N)."""
        self.look[by] = apart
        self._order.pop(by, None)

    def apart(self, by: str, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(B, C) how far codes are from others."""
        return self.look[by][rows].take(columns, axis=1)

    def nearest(self, by: str, rows: np.ndarray, width: int | None) -> np.ndarray:
        """(B, width) indices of the codes nearest to some, the nearest first; None: of all codes."""
        apart = self.look[by]
        if width is None or width > _KEPT:
            return np.argsort(apart[rows], axis=1, kind="stable")
        if by not in self._order:
            near = np.argpartition(apart, min(_KEPT, apart.shape[1]) - 1, axis=1)[:, :_KEPT]
            order = np.argsort(np.take_along_axis(apart, near, axis=1), axis=1, kind="stable")
            self._order[by] = np.take_along_axis(near, order, axis=1).astype(np.int32)
        return self._order[by][rows, :width]

    def count(self, drawn: np.ndarray, asked: np.ndarray, short: np.ndarray, suspects: int = 0) -> None:
        """Adds what a batch that was trained on had drawn."""
        self.drawn += drawn
        self.asked += asked
        self.short += short
        self.suspects += suspects

    def logged(self, stage: Stage) -> dict[str, float]:
        """Shares of the negatives drawn so far by bucket, the phase's number, what is annealed, and what was found."""
        total = max(1, int(self.drawn.sum()))
        values = {f"negatives/bucket_{bucket}": float(n) / total for bucket, n in enumerate(self.drawn) if n}
        if not stage.all_phases:
            return values
        phase = self.phase(stage)
        if len(stage.all_phases) > 1:
            values["curriculum/phase"] = float(stage.all_phases.index(phase))
        for name, annealed in _annealed(phase):
            values[f"curriculum/{name}"] = self.value(annealed)
        if phase.false_negatives is not None and self.clusters is not None:
            values["false_negatives/clusters"] = float(len(np.unique(self.clusters)))
            values["false_negatives/found"] = float(self.suspects)
        return values

    def shortfall(self) -> str | None:
        """What buckets that fell short lack, as one sentence; None where none did."""
        parts = [f"bucket {b} lacked {n} of {self.asked[b]}" for b, n in enumerate(self.short) if n]
        return f"{'; '.join(parts)} negatives, which other buckets gave instead" if parts else None

    def state_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name).tolist() for name in ("drawn", "asked", "short")}
        clusters = None if self.clusters is None else self.clusters.tolist()
        return {"epoch": self.epoch, "metrics": self.metrics, "clusters": clusters, "suspects": self.suspects} | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.metrics, self.suspects = state["epoch"], dict(state["metrics"]), state["suspects"]
        self.drawn, self.asked, self.short = (np.array(state[name]) for name in ("drawn", "asked", "short"))
        self.clusters = None if state["clusters"] is None else np.array(state["clusters"])


def _annealed(phase: Phase) -> list[tuple[str, Anneal]]:
    """What a phase anneals, by name; the policies that stand in `rest` of another as well."""
    specs: list[Negatives] = [phase.negatives]
    while rest := getattr(specs[-1], "rest", None):
        specs.append(rest)
    named = [(f"{spec.kind}_{name}", getattr(spec, name, None)) for spec in specs for name in ("alpha", "share")]
    return [(name, value) for name, value in named if isinstance(value, Anneal)]
