"""All scorers together, and the answer they come to: the same in evaluation, search and service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from naics_pipeline.scorers.blend import Blend, Probable
from naics_pipeline.scorers.calibration import Calibration
from naics_pipeline.scorers.centroid import CentroidScorer
from naics_pipeline.scorers.definition import DefinitionScorer
from naics_pipeline.scorers.embedding import EmbeddingScorer
from naics_pipeline.scorers.lexical import LexicalScorer
from naics_pipeline.scorers.linear import LinearScorer
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.related_words import RelatedWordsScorer
from naics_pipeline.scorers.scorer import Scorer
from naics_pipeline.scorers.words import WordTable
from naics_pipeline.text_model.embeddings import Embeddings

CODE, ENTRY, CENTROID = "code", "nearest_entry", "centroid"
LEXICAL, RELATED, LINEAR, DEFINITION = "lexical", "related_words", "linear", "definition"
MIXED, BLEND = "mixed", "blend"
BLEND_WITHOUT = "blend_without_"
GIVEN = {DEFINITION: 6.0}
"""What the definition counts for the farthest texts. Nothing to fit it on: index entries are found without it,
descriptions by those who do the business are not. Chosen as its shares were."""
EXPECTED = {
    CODE: (1.7, -0.9),
    ENTRY: (1.2, 1.4),
    CENTROID: (0.3, 0.3),
    LEXICAL: (0.0, 0.8),
    RELATED: (0.1, 0.8),
    LINEAR: (0.6, 0.3),
}
"""What the blend of all expects of the weights: rounded, what 1,611 validation entries of the full taxonomy come to by
themselves. The hundred of the sample share words with their neighbours as no other texts do, and alone they put words
before meaning."""
KIND = "entry"
"""What an index entry is among the texts below a code."""


def scorers_of_space() -> dict[str, Scorer]:
    """Those that read points alone."""
    return {CODE: EmbeddingScorer(), ENTRY: NearestEntryScorer(), CENTROID: CentroidScorer()}


def all_scorers(seed: int, table: WordTable) -> dict[str, Scorer]:
    """Those of the space, and those that read words and the base's vectors.

    Args:
        seed: of the linear scorer's first weights.
        table: of the base whose vectors they read.
    """
    return {
        **scorers_of_space(),
        LEXICAL: LexicalScorer(),
        RELATED: RelatedWordsScorer(table),
        LINEAR: LinearScorer(seed),
        DEFINITION: DefinitionScorer(),
    }


def learn(
    scorers: Mapping[str, Scorer], places: Embeddings, codes: Embeddings, entries: Embeddings
) -> dict[str, np.ndarray]:
    """Fits the scorers on all texts whose codes they may know; scorer → (V, L), what it said of validation entries.

    They are asked before they know these entries: whatever is chosen is chosen on unseen texts. Then the entries are
    texts below their codes like any others. On four fifths of them, a further tenth of all, the other fifth is found
    half a point more often.

    Args:
        places: texts below their codes, with kind and whatever else the scorers read.
        codes: the L codes that are scored.
        entries: the V validation entries, with the columns of the places except for kind.
    """
    for scorer in scorers.values():
        scorer.fit(places, codes)
    said = {name: scorer.scores(entries) for name, scorer in scorers.items()}
    if len(entries.codes):
        known = with_entries(places, entries)
        for scorer in scorers.values():
            scorer.fit(known, codes)
    return said


def scores_of(
    scorers: Mapping[str, Scorer], places: Embeddings, codes: Embeddings, asked: Embeddings, validation: np.ndarray
) -> dict[str, np.ndarray]:
    """Scorer → (Q, L), by scorers that `learn`: of validation entries before they are known, of all others after.

    Args:
        asked: the Q texts.
        validation: (Q,) booleans.
    """
    unseen = learn(scorers, places, codes, asked.at(validation))
    found = {name: scorer.scores(asked) for name, scorer in scorers.items()}
    for name, said in unseen.items():
        found[name][validation] = said
    return found


def with_entries(places: Embeddings, entries: Embeddings) -> Embeddings:
    """Texts below their codes, these entries among them, with what is known of both."""
    further = entries.columns.with_columns(kind=pl.lit(KIND)) if entries.columns.width else entries.columns
    shared = [name for name in places.columns.columns if name in further.columns]
    columns = pl.concat([places.columns.select(shared), further.select(shared)])
    return replace(
        places,
        codes=np.concatenate([places.codes, entries.codes]),
        points=np.concatenate([places.points, entries.points]),
        columns=columns,
    )


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
        reads_words = LEXICAL in scores or LINEAR in scores
        blend = Blend.fit(scores, right, ENTRY if ENTRY in scores else None, GIVEN, EXPECTED if reads_words else None)
        if len(right) == 0:
            return cls(blend, Calibration())
        probabilities = blend.probabilities(scores)
        return cls(blend, Calibration.fit(probabilities.max(axis=1), probabilities.argmax(axis=1) == right))

    def probabilities(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n, L) from (n, L) of each scorer, at least of those that it was fitted on."""
        return self.calibration(self.blend.probabilities(scores))

    def probable(self, scores: Mapping[str, np.ndarray]) -> Probable:
        """The probabilities, and how far each text lies from what is known."""
        return Probable(self.probabilities(scores), self.blend.farness(scores))


def blends_of(scorers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Blend → the scorers in it: of the space's own, of all, and of all but one each."""
    found: dict[str, tuple[str, ...]] = {MIXED: (CODE, ENTRY, CENTROID)}
    if len(scorers) > len(found[MIXED]):
        found[BLEND] = tuple(scorers)
        found |= {f"{BLEND_WITHOUT}{name}": tuple(other for other in scorers if other != name) for name in scorers}
    return found
