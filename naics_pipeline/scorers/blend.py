"""Several scorers as one: their scores, each with a weight, are the logits of one probability over the codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_PRIOR, _EXPECTED_PRIOR = 0.5, 10.0
"""What a squared step of a weight, from 0 or from what was expected of it, costs against the log likelihood of all
texts together; in units of each scorer's spread. With a hundred texts to fit on it holds them together, with a thousand
it is hardly felt."""
CAUTION = 0.2
"""What the logits of the farthest text lose: it is farther than the validation texts, which the weights are fitted on,
and they would be too sure of it. Chosen among five on real descriptions and validation entries."""
_STEPS = 101


@dataclass(frozen=True)
class Probable:
    """What a blend says of n texts.

    Attributes:
        chances: (n, L) probabilities; rows sum to 1.
        far: (n,) how far each text lies from all that is known, 0 to 1; see `Blend`.
    """

    chances: np.ndarray
    far: np.ndarray

    def at(self, rows: np.ndarray) -> "Probable":
        """Of some of the texts."""
        return Probable(self.chances[rows], self.far[rows])


@dataclass(frozen=True)
class Blend:
    """p(code | text) ∝ exp((1 - CAUTION f) Σ_s (w_s + f v_s) score_s), a conditional logit (McFadden, 1974).

    A product of experts: a code has to convince all of them. Fitted by likelihood, so that its probabilities mean
    something, and convex, so that there is one best answer. On validation entries it finds a point more than the
    weighted mean of the scorers' own probabilities.

    f says how far a text lies from all that is known, 0 to 1: the squared share of validation texts that one scorer,
    the gauge, knows better. Of a text like those below a code the points know best; of another the shared words and
    the definition say more.

    Attributes:
        weights: scorer → w, one over the unit of its scores; ≥ 0.
        far: scorer → v, what far texts add to it, of any sign; none without a gauge.
        gauge: the scorer whose best score tells how well a text is known.
        known: (101,) quantiles of the best scores of the gauge over the validation texts, the lowest first.
    """

    weights: dict[str, float]
    far: dict[str, float] = field(default_factory=dict)
    gauge: str | None = None
    known: Sequence[float] = ()

    @classmethod
    def fit(
        cls,
        scores: Mapping[str, np.ndarray],
        right: np.ndarray,
        gauge: str | None = None,
        given: Mapping[str, float] | None = None,
        expected: Mapping[str, tuple[float, float]] | None = None,
    ) -> "Blend":
        """The weights of greatest likelihood.

        Args:
            scores: scorer → (V, L) of validation texts, finite.
            right: (V,) position of each text's code; without any text all weights are 1.
            gauge: one of the scorers; None: all texts are read alike.
            given: scorers that are not fitted, with their v; w is 0. Without a gauge they have no say.
            expected: scorer → (w, v), one over the spread of its scores, that few texts are to leave only slowly; None:
                nothing is known of any scorer.
        """
        from scipy.optimize import minimize

        if len(right) == 0:
            return cls(dict.fromkeys(scores, 1.0))
        given = {name: weight for name, weight in (given or {}).items() if name in scores}
        names = [name for name in scores if name not in given]
        stacked = np.stack([scores[name] - scores[name].max(axis=1, keepdims=True) for name in names])
        spread = np.maximum(stacked.std(axis=(1, 2)), np.finfo(np.float32).tiny)
        stacked /= spread[:, None, None]
        own = stacked[:, np.arange(len(right)), right]
        known = () if gauge is None else tuple(np.quantile(scores[gauge].max(axis=1), np.linspace(0, 1, _STEPS)))
        far = np.zeros(len(right)) if gauge is None else _farness(scores[gauge], known)
        mean = np.array([(expected or {}).get(name, (0.0, 0.0)) for name in names]).T.ravel()
        pull = (_PRIOR if expected is None else _EXPECTED_PRIOR) / len(right)

        def loss(both: np.ndarray) -> tuple[float, np.ndarray]:
            weights, further = both.reshape(2, -1)
            of_text = weights[:, None] + further[:, None] * far
            logits = np.einsum("sv,svl->vl", of_text, stacked)
            highest = logits.max(axis=1, keepdims=True)
            shares = np.exp(logits - highest)
            total = shares.sum(axis=1, keepdims=True)
            shares /= total
            value = ((np.log(total) + highest)[:, 0] - (of_text * own).sum(axis=0)).mean()
            slope = np.einsum("vl,svl->sv", shares, stacked) - own
            step = both - mean
            return value + pull * step @ step, np.append(slope.mean(1), (slope * far).mean(1)) + 2 * pull * step

        start = np.repeat([1.0, 0.0], len(names))
        bounds = [(0, None)] * len(names) + [(None, None)] * len(names)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x.reshape(2, -1) / spread
        weights, further = (dict(zip(names, values.tolist(), strict=True)) for values in found)
        return cls(
            weights={name: weights.get(name, 0.0) for name in scores},
            far={} if gauge is None else {name: further.get(name, given.get(name, 0.0)) for name in scores},
            gauge=gauge,
            known=known,
        )

    @property
    def heard(self) -> list[str]:
        """The scorers whose scores change an answer, the gauge among them; all, where none has a weight."""
        has_say = {name for name, weight in self.weights.items() if weight or self.far.get(name)}
        return [name for name in self.weights if name in has_say or name == self.gauge] or list(self.weights)

    def probabilities(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, L) from (n, L) of each scorer that is heard; rows sum to 1."""
        if self.gauge is None:
            return softmax(np.asarray(sum(self.weights[name] * scores[name] for name in self.heard)))
        far = self.farness(scores)[:, None]
        logits = sum((self.weights[name] + self.far[name] * far) * scores[name] for name in self.heard)
        return softmax(np.asarray((1 - CAUTION * far) * logits))

    def farness(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n,) from 0 to 1, from (n, L) of the gauge; without one all texts are far."""
        if self.gauge is None:
            return np.ones(len(next(iter(scores.values()))))
        return _farness(scores[self.gauge], self.known)


def _farness(scores: np.ndarray, known: Sequence[float]) -> np.ndarray:
    """(n,) from 0 to 1, from the scores (n, L) of the gauge."""
    better = 1 - np.interp(scores.max(axis=1), known, np.linspace(0, 1, len(known)))
    return np.asarray(better**2)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
