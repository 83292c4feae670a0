"""Whether a probability means what it says: a line that makes it so, and the measures of how far it is off."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

BINS = 15
PRECISION = 0.95
_LEAST = 1e-12


@dataclass(frozen=True)
class Calibration:
    """The first answer's probability c becomes σ(slope · logit(c) + shift), as Platt (1999) does with a score.

    The other codes share what is left in their old proportions. A temperature alone does not do: where texts are plain
    the answers are too sure, for some entries are ambiguous, and where they are not, too unsure.
    """

    slope: float = 1.0
    shift: float = 0.0

    @classmethod
    def fit(cls, confidence: np.ndarray, right: np.ndarray) -> "Calibration":
        """The line of greatest likelihood, drawn a little towards no change.

        Args:
            confidence: (V,) probability of the first answer to validation texts.
            right: (V,) whether it was right; without any text nothing is changed.
        """
        from scipy.optimize import minimize

        if len(confidence) == 0:
            return cls()
        odds = _logit(confidence)

        def loss(line: np.ndarray) -> float:
            logits = line[0] * odds + line[1]
            pull = (line[0] - 1) ** 2 + line[1] ** 2
            return float(np.logaddexp(0, np.where(right, -logits, logits)).sum() + pull)

        slope, shift = minimize(loss, [1.0, 0.0], bounds=[(0.05, None), (None, None)]).x
        return cls(float(slope), float(shift))

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, L) calibrated, in the same order of codes; rows sum to 1."""
        rows = np.arange(len(probabilities))
        first = probabilities.argmax(axis=1)
        before = probabilities[rows, first]
        rest = np.maximum(1 - before, _LEAST)
        others = probabilities.copy()
        others[rows, first] = 0
        second = others.max(axis=1)
        # No code overtakes another: the first stays at least level with the second.
        after = np.maximum(expit(self.slope * _logit(before) + self.shift), second / (rest + second))
        others *= ((1 - after) / rest)[:, None]
        others[rows, first] = after
        return others


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)))


def calibration_metrics(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Measures of the first answer: calibration_error, brier, answered_at_95.

    Args:
        confidence: (n,) probability of the first answer.
        right: (n,) whether it was right, or the chance that it was.
    """
    if len(confidence) == 0:
        return dict.fromkeys(("calibration_error", "brier", "answered_at_95"), float("nan"))
    return {
        "calibration_error": calibration_error(confidence, right),
        "brier": float(((confidence - right) ** 2).mean()),
        "answered_at_95": answered_at(confidence, right, PRECISION),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and share of right answers over bins of equal width.

    Naeini et al. (2015); each bin counts as many as it holds.
    """
    gap = np.bincount(bin_of(confidence, bins), weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which of so many bins of equal width each confidence (n,) lies in."""
    return np.minimum((confidence * bins).astype(int), bins - 1)


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Threshold, share answered and precision, (m,) each: answering from each distinct confidence up, highest first."""
    order = np.argsort(-confidence, kind="stable")
    # Answers of one confidence are given together or not at all.
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    answered = last + 1
    return confidence[order][last], answered / len(confidence), np.cumsum(right[order])[last] / answered


def answered_at(confidence: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The greatest share of texts that can be answered with this precision; 0 where none can."""
    _, coverage, precisions = risk_coverage(confidence, right)
    return float(coverage[precisions >= precision].max(initial=0.0))
