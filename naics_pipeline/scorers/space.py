"""The three read-outs of one space, for any texts that are points of it."""

import numpy as np

from naics_pipeline.errors import ModelError
from naics_pipeline.scorers.mixture import Mixture
from naics_pipeline.scorers.readouts import Places, query_distances
from naics_pipeline.taxonomy.tree import LEVELS
from naics_pipeline.text_model.embeddings import Embeddings

CODE, ENTRY, MIXED = "code", "nearest_entry", "mixed"


class SpaceReadouts:
    """Scores of texts over the six-digit codes of a space; of all read-outs less is better.

    Attributes:
        candidates: (L,) the codes.

    Args:
        space: points of all codes.
        places: texts below their codes as points of the same space; without them there is the code read-out only.
    Raises:
        ModelError: the places are points of another space.
    """

    def __init__(self, space: Embeddings, places: Embeddings | None = None) -> None:
        self.space = space.at(space.level == max(LEVELS))
        self.candidates = self.space.codes
        self._places = None
        if places is not None:
            self._refuse_another_space(places, "places")
            order = np.argsort(self.candidates)
            at = np.minimum(np.searchsorted(self.candidates, places.codes, sorter=order), len(order) - 1)
            owner = np.where(self.candidates[order[at]] == places.codes, order[at], -1)
            self._places = Places(places.points, owner, self.space.points)

    def distances(self, texts: Embeddings) -> dict[str, np.ndarray]:
        """Read-out → (Q, L), of the code's point and of its nearest place.

        Raises:
            ModelError: the texts are points of another space.
        """
        self._refuse_another_space(texts, "queries")
        space = self.space
        found = {CODE: query_distances(texts.points, space.points, space.curvature, space.geometry)}
        if self._places is not None:
            found[ENTRY] = self._places.nearest(texts.points, space.curvature, space.geometry)
        return found

    def _refuse_another_space(self, texts: Embeddings, what: str) -> None:
        space = self.space
        same = texts.geometry == space.geometry and texts.points.shape[1] == space.points.shape[1]
        if not same or texts.curvature != space.curvature:
            raise ModelError(
                f"the {what} lie in another space ({_described(texts)}) than the codes ({_described(space)}): "
                f"materialize both in one run, or name the file of {what} that belongs to these embeddings."
            )


def with_mixed(distances: dict[str, np.ndarray], mixture: Mixture) -> dict[str, np.ndarray]:
    """The distances of both read-outs and the mixture's scores: -p, so that less is better there, too."""
    return {**distances, MIXED: -mixture.probabilities(distances[CODE], distances[ENTRY])}


def positions(candidates: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Where codes stand among the candidates, whatever the order of these.

    Raises:
        ModelError: one is no candidate.
    """
    order = np.argsort(candidates)
    place = np.searchsorted(candidates, codes, sorter=order)
    found: np.ndarray = order[np.minimum(place, len(candidates) - 1)]
    missing = codes[candidates[found] != codes]
    if missing.size:
        raise ModelError(
            f"{len(missing)} queries belong to codes that are no candidates, such as {missing[0]}: "
            "embeddings and index entries come from different taxonomies; materialize both from one source."
        )
    return found


def _described(space: Embeddings) -> str:
    return f"{space.geometry}, {space.points.shape[1]} coordinates, curvature {space.curvature:.6g}"
