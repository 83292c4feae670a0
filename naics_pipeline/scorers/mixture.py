"""Two read-outs of a space as one: each becomes probabilities of its own, and the mixture is their weighted mean."""

from dataclasses import dataclass
from itertools import product

import numpy as np

# In units of the spread of a query's distances over the codes, so that they suit distances of any scale.
_TEMPERATURES = (0.2, 0.35, 0.5, 0.7, 1.0)
_WEIGHTS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Mixture:
    """p = w softmax(-D_code / τ_code) + (1 - w) softmax(-D_entry / τ_entry).

    A mixture of probabilities and not of distances: with fitted weights the two find as much, and probabilities can be
    averaged over the parts of a text, too. The nearest place serves better than a soft minimum over all places, and
    votes of a code's relatives (its parent's point, the probability of its siblings) add nothing.

    Attributes:
        weight: w, the share of the code's own point.
        code_temperature, entry_temperature: τ of each read-out, in the unit of its distances.
    """

    weight: float = 0.5
    code_temperature: float = 0.2
    entry_temperature: float = 0.2

    @classmethod
    def fit(cls, code: np.ndarray, entry: np.ndarray, right: np.ndarray) -> "Mixture":
        """The mixture with the best mean reciprocal rank, by a search over a small grid.

        Args:
            code, entry: (V, L) distances of validation queries by each read-out.
            right: (V,) position of each query's code; without any query the defaults are taken.
        """
        if len(right) == 0:
            return cls()
        by_code, by_entry = (
            {t: softmax(distances, t).astype(np.float32) for t in _spread(distances) * np.array(_TEMPERATURES)}
            for distances in (code, entry)
        )
        grid = list(product(_WEIGHTS, by_code, by_entry))
        found = [_reciprocal_rank(w * by_code[t] + (1 - w) * by_entry[u], right) for w, t, u in grid]
        return cls(*map(float, grid[int(np.argmax(found))]))

    def probabilities(self, code: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """(Q, L) from the distances of both read-outs; rows sum to 1."""
        own = self.weight * softmax(code, self.code_temperature)
        own += (1 - self.weight) * softmax(entry, self.entry_temperature)
        return own


def softmax(distances: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of -distances / temperature over the last axis; an infinite distance has probability 0."""
    shares = np.exp((distances.min(axis=-1, keepdims=True) - distances) / temperature)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def _spread(distances: np.ndarray) -> float:
    """Mean over queries of the standard deviation over codes; 1 where all distances are alike."""
    finite = np.where(np.isfinite(distances), distances, np.nan)
    return float(np.nanstd(finite, axis=1).mean()) or 1.0


def _reciprocal_rank(probabilities: np.ndarray, right: np.ndarray) -> float:
    # Ties count against the right code: a read-out that cannot tell codes apart must not win the search.
    own = np.take_along_axis(probabilities, right[:, None], axis=1)
    return float((1 / np.count_nonzero(probabilities >= own, axis=1)).mean())
