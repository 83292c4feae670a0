"""What terms say of codes, as the scorers that read words learn it and an index keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class TermWeights:
    """Of L codes and T terms.

    Attributes:
        weights: (L, T) sparse.
        idf: (T,) how much each term tells codes apart.
        terms: T words or parts of words.
    """

    weights: csr_matrix
    idf: np.ndarray
    terms: list[str]

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], terms: list[str]) -> Self:
        """From `arrays`, which lie apart from the terms."""
        shape = (len(arrays["indptr"]) - 1, len(terms))
        weights = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        return cls(weights, arrays["idf"], terms)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All but the terms, by name."""
        weights = self.weights
        return {"idf": self.idf, "data": weights.data, "indices": weights.indices, "indptr": weights.indptr}

    @cached_property
    def by_term(self) -> csr_matrix:
        """(T, L); made once, since of one text it would take longer than the product."""
        return self.weights.T.tocsr()
