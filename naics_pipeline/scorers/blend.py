"""Several scorers as one: their scores, each with a weight, are the logits of one probability over the codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_PRIOR = 1e-3
"""Of the squared weights, in units of each scorer's spread: with a hundred texts to fit on it holds them together,
with a thousand it is not felt."""


@dataclass(frozen=True)
class Blend:
    """p(code | text) ∝ exp(Σ_s w_s score_s), a conditional logit (McFadden, 1974) over the scorers.

    A product of experts: a code has to convince all of them. Fitted by likelihood, so that its probabilities mean
    something, and convex, so that there is one best answer. On validation entries it finds a point more than the
    weighted mean of the scorers' own probabilities.

    Attributes:
        weights: scorer → w ≥ 0, one over the unit of its scores.
    """

    weights: dict[str, float]

    @classmethod
    def fit(cls, scores: Mapping[str, np.ndarray], right: np.ndarray) -> "Blend":
        """The weights of greatest likelihood.

        Args:
            scores: scorer → (V, L) of validation texts, finite.
            right: (V,) position of each text's code; without any text all weights are 1.
        """
        from scipy.optimize import minimize

        if len(right) == 0:
            return cls(dict.fromkeys(scores, 1.0))
        stacked = np.stack([values - values.max(axis=1, keepdims=True) for values in scores.values()])
        spread = np.maximum(stacked.std(axis=(1, 2)), np.finfo(np.float32).tiny)
        stacked /= spread[:, None, None]
        own = stacked[:, np.arange(len(right)), right]

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = np.tensordot(weights, stacked, 1)
            highest = logits.max(axis=1, keepdims=True)
            shares = np.exp(logits - highest)
            total = shares.sum(axis=1, keepdims=True)
            shares /= total
            value = (np.log(total) + highest)[:, 0].mean() - (weights @ own).mean()
            slope = np.einsum("vl,svl->s", shares, stacked) / len(right) - own.mean(axis=1)
            return value + _PRIOR * weights @ weights, slope + 2 * _PRIOR * weights

        start = np.ones(len(stacked))
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(stacked)).x
        return cls({name: float(weight) for name, weight in zip(scores, found / spread, strict=True)})

    @property
    def heard(self) -> list[str]:
        """The scorers whose scores change an answer; all, where none has a weight."""
        return [name for name, weight in self.weights.items() if weight] or list(self.weights)

    def probabilities(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, L) from (n, L) of each scorer that is heard; rows sum to 1."""
        logits = sum(self.weights[name] * scores[name] for name in self.heard)
        return softmax(np.asarray(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
