"""Whether one variant really beats another: paired bootstrap, and the gate between text and refined embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from naics_pipeline.scorers.calibration import BINS, PRECISION, bin_of, calibration_metrics

_BLOCK = 250


@dataclass(frozen=True)
class Comparison:
    """What the second variant gains over the first.

    Attributes:
        difference: mean of second - first.
        low, high: bounds of the bootstrap interval of the difference.
        p_value: two-sided; share of resamples on the far side of 0, doubled.
        n: codes or queries that both variants score.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    @property
    def verdict(self) -> str:
        """better, worse, or no difference: the interval lies above, below or over 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference"


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, seed: int, resamples: int = 5000, confidence: float = 0.95
) -> Comparison:
    """Resamples codes (or queries) with replacement and takes the percentiles of mean(second - first).

    Args:
        first, second: (n,) scores of the same codes in the same order; where either is NaN the code is left out.
        seed: of the resampling.
        confidence: coverage of the interval.
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    difference = difference[~np.isnan(difference)]
    if difference.size == 0:
        return Comparison(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    means = _resampled_means(difference, np.random.default_rng(seed), resamples)
    return _comparison(difference, means, confidence)


def paired_bootstraps(
    differences: np.ndarray, *, seed: int, resamples: int = 5000, confidence: float = 0.95
) -> list[Comparison]:
    """`paired_bootstrap` of many scores of the same codes (or queries) at once: each resample serves all of them.

    Args:
        differences: (n, M) second - first, without NaN, n > 0.
        seed: of the resampling.
        confidence: coverage of the intervals.
    """
    means = _joint_means(differences, np.random.default_rng(seed), resamples)
    columns = zip(differences.T, means.T, strict=True)
    return [_comparison(difference, resampled, confidence) for difference, resampled in columns]


def _comparison(difference: np.ndarray, means: np.ndarray, confidence: float) -> Comparison:
    """From (n,) differences and the means of their resamples."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    # One is added so that no finite number of resamples claims certainty.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * (tail + 1) / (len(means) + 1))
    return Comparison(float(difference.mean()), float(low), float(high), float(p_value), difference.size)


def intervals(
    scores: pl.DataFrame, *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Metric → bounds of the bootstrap interval of its mean over codes or texts.

    Args:
        scores: metric, key, value.
    """
    bounds = (1 - confidence) / 2, (1 + confidence) / 2
    by_size: dict[int, dict[str, np.ndarray]] = {}
    for (metric,), rows in scores.group_by("metric", maintain_order=True):
        by_size.setdefault(rows.height, {})[str(metric)] = rows["value"].to_numpy()
    found: dict[str, tuple[float, float]] = {}
    for values in by_size.values():
        means = _joint_means(np.column_stack(list(values.values())), np.random.default_rng(seed), resamples)
        low, high = np.quantile(means, bounds, axis=0)
        found |= {metric: (float(low[i]), float(high[i])) for i, metric in enumerate(values)}
    return {metric: found[metric] for metric in scores["metric"].unique(maintain_order=True)}


def mean_interval(
    values: np.ndarray, *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Bounds of the bootstrap interval of the mean of (n,) values; NaN where there are none."""
    if not len(values):
        return float("nan"), float("nan")
    means = _resampled_means(np.asarray(values, dtype=np.float64), np.random.default_rng(seed), resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def calibration_intervals(
    confidence: np.ndarray, right: np.ndarray, *, seed: int = 0, resamples: int = 1000, coverage: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Measure of `calibration_metrics` → bounds of its bootstrap interval, from resampling texts.

    Resampling adds noise to each bin's gap, and so to every resampled calibration error: these are shifted until their
    mean is the value.

    Args:
        confidence, right: (n,), as in `calibration_metrics`.
    """
    measured = calibration_metrics(confidence, right)
    if not len(confidence):
        return {}
    n, order = len(confidence), np.argsort(-confidence, kind="stable")
    sure, agrees = confidence[order], right[order].astype(np.float64)
    gap = np.zeros((n, BINS))
    gap[np.arange(n), bin_of(sure)] = sure - agrees
    last = np.append(np.diff(sure) != 0, True)
    found: dict[str, list[np.ndarray]] = {name: [] for name in measured}
    for count in _counts(n, np.random.default_rng(seed), resamples):
        found["calibration_error"].append(np.abs(count @ gap).sum(axis=1) / n)
        found["brier"].append(count @ (sure - agrees) ** 2 / n)
        answered = np.cumsum(count, axis=1)[:, last]
        enough = np.cumsum(count * agrees, axis=1)[:, last] >= PRECISION * answered
        found["answered_at_95"].append((answered * enough).max(axis=1) / n)
    bounds = (1 - coverage) / 2, (1 + coverage) / 2
    values = {name: np.concatenate(blocks) for name, blocks in found.items()}
    values["calibration_error"] += measured["calibration_error"] - values["calibration_error"].mean()
    spans = {name: np.maximum(np.quantile(resampled, bounds), 0) for name, resampled in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in spans.items()}


def _counts(n: int, rng: np.random.Generator, resamples: int) -> Iterator[np.ndarray]:
    """Blocks (·, n) float64 of resamples in all: how often each of n is drawn."""
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _joint_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """(resamples, M) means of resampled rows of (n, M) values: drawing is what costs, and is done once for all M."""
    return np.concatenate([count @ values for count in _counts(len(values), rng, resamples)]) / len(values)


def _resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """How often each distinct value is drawn is multinomial: scores repeat, so few distinct values say it all."""
    distinct, count = np.unique(values, return_counts=True)
    chance = count / values.size
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        drawn = rng.multinomial(values.size, chance, size=min(_BLOCK, resamples - start))
        means[start : start + _BLOCK] = drawn @ distinct / values.size
    return means


def compare_scores(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], *, seed: int
) -> dict[str, Comparison]:
    """`paired_bootstrap` of every score that both variants have; scores of the same codes are resampled together."""
    differences = {name: second[name] - first[name] for name in first if name in second}
    alike: dict[bytes, list[str]] = {}
    for name, values in differences.items():
        alike.setdefault(np.isnan(values).tobytes(), []).append(name)
    found: dict[str, Comparison] = {}
    for names in alike.values():
        known = ~np.isnan(differences[names[0]])
        if known.any():
            changes = np.column_stack([differences[name][known] for name in names])
            found |= dict(zip(names, paired_bootstraps(changes, seed=seed), strict=True))
        else:
            found |= {name: paired_bootstrap(first[name], second[name], seed=seed) for name in names}
    return {name: found[name] for name in differences}


@dataclass(frozen=True)
class GateRule:
    """One condition on refined embeddings: `metric` may change by no less than `minimum` against the text model's."""

    metric: str
    before: float
    after: float
    minimum: float

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def passed(self) -> bool:
        # A change that equals the minimum in decimals may miss it by a rounding.
        return self.change >= self.minimum - 1e-12


def failures(rules: Sequence[GateRule]) -> str:
    """What failed, in words; empty where all passed."""
    return "; ".join(
        f"{rule.metric} {rule.before:.4f} to {rule.after:.4f}, at least {rule.minimum:+.4f}"
        for rule in rules
        if not rule.passed
    )


@dataclass(frozen=True)
class Thresholds:
    """Least changes that pass the gate.

    Attributes:
        cophenetic, ndcg, parent: of cophenetic_correlation, ndcg@10 and parent_retrieval@1.
        parent_is_high: a parent_retrieval@1 that was at least this must stay at least this, and need gain nothing.
    """

    cophenetic: float = -0.02
    ndcg: float = -0.01
    parent: float = 0.05
    parent_is_high: float = 0.95


_PARENT = "parent_retrieval@1"
_DEFAULTS = Thresholds()


def gate(before: Mapping[str, float], after: Mapping[str, float], thresholds: Thresholds = _DEFAULTS) -> list[GateRule]:
    """What the refined embeddings must keep of the text model's structure, and what they must add.

    Metrics that the taxonomy does not define are left out.
    """
    high = thresholds.parent_is_high
    parent = high - before[_PARENT] if before[_PARENT] >= high else thresholds.parent
    minimum = {"cophenetic_correlation": thresholds.cophenetic, "ndcg@10": thresholds.ndcg, _PARENT: parent}
    rules = [GateRule(metric, before[metric], after[metric], least) for metric, least in minimum.items()]
    return [rule for rule in rules if not np.isnan(rule.before)]
