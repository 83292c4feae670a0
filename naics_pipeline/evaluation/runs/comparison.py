"""Two runs side by side: every metric with the interval of its difference, and the codes and texts behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.compare import Comparison, paired_bootstraps
from naics_pipeline.evaluation.glossary import by_name
from naics_pipeline.evaluation.runs.scores import FOLDER, RunRecord, runs_in
from naics_pipeline.storage import Store

_RESAMPLES = 1000
_MOST_CHANGED = 15
_CHANGED = ("query_mrr", "mixed/query_mrr", "ndcg@10", "cophenetic_correlation", "labelled/parts/top10")
"""Metrics of which the codes or texts that changed most are shown: the finest of their kind."""


@dataclass(frozen=True)
class Difference:
    """One metric of one space.

    Attributes:
        first, second: its value in each run, over all that the run scored.
        comparison: over the codes or texts that both scored; None where the metric has no scores (extremes, medians).
    """

    space: str
    metric: str
    first: float | None
    second: float | None
    comparison: Comparison | None

    @property
    def change(self) -> float:
        """Second minus first, over what both scored where scores are known."""
        if self.comparison is not None:
            return self.comparison.difference
        known = self.first is not None and self.second is not None
        return float(self.second) - float(self.first) if known else float("nan")  # type: ignore[arg-type]

    @property
    def verdict(self) -> str:
        """better, worse, no difference; changed where neither direction is better; nothing without an interval."""
        if self.comparison is None or not self.comparison.n:
            return ""
        better, verdict = by_name(self.metric).better, self.comparison.verdict
        if verdict == "no difference" or better == "higher":
            return verdict
        return {"better": "worse", "worse": "better"}[verdict] if better == "lower" else "changed"


@dataclass(frozen=True)
class RunComparison:
    """What the second run does otherwise than the first.

    Attributes:
        first, second: the runs.
        differences: every metric that both have, space by space.
        changed: (space, metric) → the codes or texts that changed most: key, first, second, change.
        settings: key → its value in either run, where they differ; None where a run has no such setting.
        data: table → its fingerprint in either run, where they differ.
    """

    first: RunRecord
    second: RunRecord
    differences: list[Difference]
    changed: dict[tuple[str, str], pl.DataFrame]
    settings: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def compare_runs(first: RunRecord, second: RunRecord, *, seed: int = 0) -> RunComparison:
    """Metrics, scores and settings of two runs.

    Args:
        seed: of the bootstrap.

    Raises:
        NaicsError: they share no code and no text: nothing of them can be compared.
    """
    before, after = (run.scores().drop("run") for run in (first, second))
    paired = before.join(after, on=["space", "metric", "key"], suffix="_second").rename({"value": "first"})
    paired = paired.rename({"value_second": "second"}).with_columns(change=pl.col("second") - pl.col("first"))
    if paired.is_empty():
        raise NaicsError(
            f"{first.name} and {second.name} have no code and no text in common: they are of different taxonomies."
        )
    # The order of a join is not its own: resamples must not depend on it.
    sorted_rows = paired.sort("key").group_by("space", "metric", maintain_order=True)
    by_metric = {(str(space), str(metric)): rows for (space, metric), rows in sorted_rows}
    compared = _compared(by_metric, seed)
    return RunComparison(
        first,
        second,
        [
            Difference(space, metric, value, second.metrics[space][metric], compared.get((space, metric)))
            for space, row in first.metrics.items()
            for metric, value in row.items()
            if metric in second.metrics.get(space, {})
        ],
        {
            (space, metric): _most_changed(rows)
            for metric in _CHANGED
            for space in first.metrics
            if (rows := by_metric.get((space, metric))) is not None and rows["change"].abs().sum() > 0
        },
        _differing(first.settings, second.settings),
        _differing(first.data, second.data),
    )


def _compared(by_metric: Mapping[tuple[str, str], pl.DataFrame], seed: int) -> dict[tuple[str, str], Comparison]:
    """(space, metric) → its comparison; those of the same codes or texts are resampled together."""
    alike: dict[bytes, list[tuple[str, str]]] = {}
    for name, rows in by_metric.items():
        alike.setdefault(rows["key"].hash().to_numpy().tobytes(), []).append(name)
    found: dict[tuple[str, str], Comparison] = {}
    for names in alike.values():
        changes = np.column_stack([by_metric[name]["change"].to_numpy() for name in names])
        found |= dict(zip(names, paired_bootstraps(changes, seed=seed, resamples=_RESAMPLES), strict=True))
    return found


def _most_changed(rows: pl.DataFrame) -> pl.DataFrame:
    most = rows.filter(pl.col("change") != 0).sort(pl.col("change").abs(), "key", descending=[True, False])
    return most.select("key", "first", "second", "change").head(_MOST_CHANGED)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*first, *second])
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def find_run(name: str, store: Store) -> RunRecord:
    """The run of that name: the beginning of a Dagster or MLflow run's id, or a directory.

    A directory may be a folder of scores or a data directory, whose newest run is taken.

    Raises:
        NaicsError: there is no such run, or more than one; names those there are.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        files = sorted(directory.glob("*.parquet"))
        if files and not (directory / FOLDER).is_dir():
            return RunRecord.read(files, directory.resolve().name)
        if found := runs_in(Store(str(directory.resolve()))):
            return found[0]
        raise NaicsError(f"{directory}: holds no {FOLDER}/<run>/*.parquet. Materialize text_evaluation there first.")
    runs = runs_in(store)
    found = [run for run in runs if any(known.startswith(name) for known in run.ids)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{run.name[:8]} ({run.created[:16]})" for run in (found or runs)[:8])
    what = f"{len(found)} runs begin so: {listed}" if found else f"no such run; evaluated were: {listed or 'none yet'}"
    raise NaicsError(f"{name}: {what}. Name a run of {store.root}, by Dagster's id or MLflow's, or a directory.")


FOLLOWED = "validation/mixed/query_top1"
"""What a run must keep up with: a metric that settings may be chosen on."""


def best_before(run: RunRecord, others: Sequence[RunRecord]) -> tuple[RunRecord, float] | None:
    """The best other run on the same source and vintage, with its value of `FOLLOWED`; None where none has one."""
    alike = [
        (other, float(value))
        for other in others
        if other.name != run.name
        and all(other.settings.get(key) == run.settings.get(key) for key in ("source", "vintage"))
        and (value := other.metrics.get("text", {}).get(FOLLOWED)) is not None
    ]
    return max(alike, key=lambda found: found[1], default=None)
