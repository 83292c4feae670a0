"""All scorers together, and the answer they come to: the same in evaluation, search and service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from naics_pipeline.scorers.blend import Blend
from naics_pipeline.scorers.calibration import Calibration
from naics_pipeline.scorers.centroid import CentroidScorer
from naics_pipeline.scorers.embedding import EmbeddingScorer
from naics_pipeline.scorers.lexical import LexicalScorer
from naics_pipeline.scorers.linear import LinearScorer
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.scorer import Scorer

CODE, ENTRY, CENTROID, LEXICAL, LINEAR = "code", "nearest_entry", "centroid", "lexical", "linear"
MIXED, BLEND = "mixed", "blend"
BLEND_WITHOUT = "blend_without_"


def scorers_of_space() -> dict[str, Scorer]:
    """Those that read points alone."""
    return {CODE: EmbeddingScorer(), ENTRY: NearestEntryScorer(), CENTROID: CentroidScorer()}


def all_scorers(seed: int) -> dict[str, Scorer]:
    """Those of the space, and those that read words and the base's vectors."""
    return {**scorers_of_space(), LEXICAL: LexicalScorer(), LINEAR: LinearScorer(seed)}


@dataclass(frozen=True)
class CalibratedBlend:
    """A blend whose probabilities are calibrated."""

    blend: Blend
    calibration: Calibration

    @classmethod
    def fit(cls, scores: Mapping[str, np.ndarray], right: np.ndarray) -> "CalibratedBlend":
        """Both fitted on validation texts.

        Args:
            scores: scorer → (V, L).
            right: (V,) position of each text's code.
        """
        blend = Blend.fit(scores, right)
        if len(right) == 0:
            return cls(blend, Calibration())
        probabilities = blend.probabilities(scores)
        return cls(blend, Calibration.fit(probabilities.max(axis=1), probabilities.argmax(axis=1) == right))

    def probabilities(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, L) from (n, L) of each scorer, at least of those that it was fitted on."""
        return self.calibration(self.blend.probabilities(scores))


def blends_of(scorers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Blend → the scorers in it: of the space's own, of all, and of all but one each."""
    found: dict[str, tuple[str, ...]] = {MIXED: (CODE, ENTRY, CENTROID)}
    if len(scorers) > len(found[MIXED]):
        found[BLEND] = tuple(scorers)
        found |= {f"{BLEND_WITHOUT}{name}": tuple(other for other in scorers if other != name) for name in scorers}
    return found
