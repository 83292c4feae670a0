"""What several runs that differ by their seed alone come to: the mean of each metric, and how far it is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.stats import t as student

from naics_pipeline.evaluation.runs.scores import RunRecord

HEADLINE = (
    ("text", "query_top1"),
    ("text", "mixed/query_top1"),
    ("text", "mixed/query_mrr"),
    ("text", "validation/mixed/query_top1"),
    ("text", "labelled/parts/top1"),
    ("text", "cophenetic_correlation"),
    ("text", "ndcg@10"),
    ("refined", "query_top1"),
    ("refined", "cophenetic_correlation"),
    ("refined", "parent_retrieval@1"),
    ("refined", "ndcg@10"),
)
"""The metrics of a short table."""


def over_seeds(runs: Mapping[int, RunRecord], confidence: float = 0.95) -> pl.DataFrame:
    """A row per space and metric: n, mean, sd (n - 1), low and high of Student's interval of the mean, and each seed's.

    Args:
        runs: seed → its run. With one run there is neither spread nor interval.
        confidence: of the interval.
    """
    rows = []
    by_seed = {seed: run.metrics for seed, run in sorted(runs.items())}
    first = next(iter(by_seed.values()), {})
    for space, metrics in first.items():
        for metric in metrics:
            values = {seed: found.get(space, {}).get(metric) for seed, found in by_seed.items()}
            rows.append({"space": space, "metric": metric, **_summary(list(values.values()), confidence)})
            rows[-1] |= {f"seed_{seed}": None if value is None else float(value) for seed, value in values.items()}
    return pl.DataFrame(rows, infer_schema_length=None)


def _summary(values: Sequence[float | None], confidence: float) -> dict[str, float | int | None]:
    known = np.array([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    n = len(known)
    mean = float(known.mean()) if n else None
    if mean is None or n < 2:
        return {"n": n, "mean": mean, "sd": None, "low": None, "high": None}
    sd = float(known.std(ddof=1))
    margin = float(student.ppf((1 + confidence) / 2, n - 1)) * sd / np.sqrt(n)
    return {"n": n, "mean": mean, "sd": sd, "low": mean - margin, "high": mean + margin}


def was_made_with(run: RunRecord, settings: Mapping[str, object]) -> bool:
    """Whether a run is complete and what it recorded of its settings is what they are now.

    Args:
        settings: by dotted key.
    """
    recorded = {key: value for key, value in run.settings.items() if key in settings}
    return {"text", "refined"} <= run.files.keys() and all(
        _plain(settings[key]) == _plain(value) for key, value in recorded.items()
    )


def _plain(value: object) -> object:
    """As JSON gives it back."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
