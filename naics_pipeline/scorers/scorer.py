"""What every scorer of codes looks like, and what several of them need: who owns a text, whether spaces agree."""

from typing import Protocol, Self

import numpy as np
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model.embeddings import Embeddings


class Scorer(Protocol):
    """Scores codes for texts; more is better, and only the scores of one text compare.

    Texts are points, with their words in the column text and the base model's vector of them in the column vector;
    each scorer reads what it needs.
    """

    def fit(self, texts: Embeddings, codes: Embeddings) -> Self:
        """Learns which texts belong to which code.

        Args:
            texts: each with the code that it belongs to; those of other codes than `codes` are left out.
            codes: the L codes that are scored, as points of the same space.
        """
        ...

    def scores(self, texts: Embeddings) -> np.ndarray:
        """(n, L) in the order of the codes, finite."""
        ...


def owners(texts: Embeddings, codes: Embeddings) -> np.ndarray:
    """(P,) position among the codes of the one that each text belongs to, -1 where it is not among them."""
    order = np.argsort(codes.codes)
    at = np.minimum(np.searchsorted(codes.codes, texts.codes, sorter=order), len(order) - 1)
    return np.where(codes.codes[order[at]] == texts.codes, order[at], -1)


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


def refuse_another_space(texts: Embeddings, codes: Embeddings, what: str) -> None:
    """Raises ModelError where texts are points of another space than the codes, as far as both say what they are of."""
    same = texts.geometry == codes.geometry and texts.points.shape[1] == codes.points.shape[1]
    its, known = (points.metadata.get("space") for points in (texts, codes))
    if not same or texts.curvature != codes.curvature or (its and known and its != known):
        raise ModelError(
            f"the {what} lie in another space ({_described(texts)}) than the codes ({_described(codes)}): "
            f"materialize both in one run, or name the file of {what} that belongs to these embeddings."
        )


def words_of(texts: Embeddings) -> list[str]:
    """The words of each text.

    Raises:
        ModelError: the texts are points alone.
    """
    if "text" not in texts.columns:
        raise ModelError("the texts have no column 'text', and this scorer reads words: give them with their words.")
    words: list[str] = texts.columns["text"].to_list()
    return words


def vectors_of(texts: Embeddings) -> np.ndarray:
    """(n, width) float32, the base model's own vector of each text.

    Raises:
        ModelError: the texts are points alone.
    """
    if "vector" not in texts.columns:
        raise ModelError("the texts have no column 'vector', and this scorer reads the base's vectors: give them, too.")
    return np.asarray(texts.columns["vector"].to_numpy(), dtype=np.float32)


def _described(space: Embeddings) -> str:
    words = f"{space.geometry}, {space.points.shape[1]} coordinates, curvature {space.curvature:.6g}"
    return f"{words}, version {space.metadata['space']}" if "space" in space.metadata else words


def products(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n, m) inner products of (n, d) and (m, d) float32.

    By PyTorch, whose threads have just read the texts: those of NumPy's own BLAS would wait for work beside them and
    make the next search twice as slow.
    """
    # A frame's columns cannot be written to, which PyTorch warns of.
    left, right = (torch.from_numpy(np.require(values, requirements="W")) for values in (rows, columns))
    found: np.ndarray = (left @ right.T).numpy()
    return found
