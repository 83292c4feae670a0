"""How well index entries find their code: each is a query, the candidates are the six-digit codes.

Ties are averaged: a query whose right code shares its distance with others counts what it would count on average over
all orders of these. A method that gives every candidate the same distance therefore scores chance, not 0 or 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from naics_pipeline.evaluation.labelled import LabelledTexts
from naics_pipeline.scorers.mixture import Mixture
from naics_pipeline.scorers.space import CODE, ENTRY, MIXED, SpaceReadouts, positions, with_mixed
from naics_pipeline.taxonomy.text import HELD_OUT, VALIDATION
from naics_pipeline.taxonomy.tree import LEVELS, sector_of
from naics_pipeline.text_model.embeddings import Embeddings

RANKS = (1, 5, 10)
BRIEF = (*(f"query_top{k}" for k in RANKS), "query_mrr")
NAMES = (*BRIEF, *(f"query_top1_digits_{digits}" for digits in LEVELS[:-1]), "query_hierarchical_f1")
_FULL_DEPTH = len(LEVELS)


@dataclass(frozen=True)
class Queries:
    """What is known of the texts that are searched.

    Attributes:
        codes: (Q,) the right code of each.
        split: (Q,) held_out or validation; None: all are held out.
        repeated: (Q,) whether Census itself says the words in a title or description; None: unknown.
    """

    codes: np.ndarray
    split: np.ndarray | None = None
    repeated: np.ndarray | None = None

    @classmethod
    def of(cls, codes: np.ndarray, columns: pl.DataFrame) -> "Queries":
        """From the columns split and repeated, where they are."""
        split, repeated = (columns[name].to_numpy() if name in columns else None for name in ("split", "repeated"))
        return cls(np.asarray(codes, dtype=np.str_), split, repeated)

    @property
    def held_out(self) -> np.ndarray:
        """(Q,) booleans."""
        return np.ones(len(self.codes), dtype=bool) if self.split is None else self.split == HELD_OUT

    @property
    def validation(self) -> np.ndarray:
        """(Q,) booleans."""
        return np.zeros(len(self.codes), dtype=bool) if self.split is None else self.split == VALIDATION

    def subsets(self) -> dict[str, tuple[np.ndarray, Sequence[str]]]:
        """Prefix of the metrics → rows and names: held-out entries in full, others in brief."""
        found: dict[str, tuple[np.ndarray, Sequence[str]]] = {"": (self.held_out, NAMES)}
        if self.repeated is not None:
            found["unrepeated/"] = (self.held_out & ~self.repeated.astype(bool), BRIEF)
        if self.split is not None:
            found["validation/"] = (self.validation, BRIEF)
        return found


@dataclass(frozen=True)
class TextScores:
    """How well texts find their codes.

    Attributes:
        by_query: name → (H,) scores of the held-out entries; `query_top1` is of the code read-out, those of others
            bear its name: `mixed/query_top1`.
        metrics: their means; those over other rows bear the rows' name as well: `unrepeated/query_top1` without what
            Census says twice, `validation/mixed/query_top1`, `labelled/parts/top1`.
    """

    by_query: dict[str, np.ndarray]
    metrics: dict[str, float]


def evaluate_texts(
    space: Embeddings, queries: Embeddings, places: Embeddings | None = None, labelled: Embeddings | None = None
) -> TextScores:
    """Texts searched among the six-digit codes of a space, by each of its read-outs.

    The mixture's parameters are fitted on the validation queries; without such it has its defaults.

    Args:
        queries: points of index entries, each with its right code, and the columns split and repeated.
        places: points of texts below their codes; without them there is the code read-out only.
        labelled: points of labelled texts and their parts, with the columns of `labelled.read_labelled`.
    Raises:
        ModelError: queries, places or labelled texts are points of another space.
    """
    readouts, asked = SpaceReadouts(space, places), Queries.of(queries.codes, queries.columns)
    distances, mixture = readouts.distances(queries), None
    if places is not None:
        rows = asked.validation
        right = positions(readouts.candidates, asked.codes[rows])
        mixture = Mixture.fit(distances[CODE][rows], distances[ENTRY][rows], right)
        distances = with_mixed(distances, mixture)
    found = search_scores(distances, readouts.candidates, asked)
    if mixture is not None:
        found.metrics.update({f"{MIXED}/{name}": value for name, value in asdict(mixture).items()})
    if labelled is not None:
        distances = readouts.distances(labelled)
        distances = distances if mixture is None else with_mixed(distances, mixture)
        chances = None if mixture is None else -distances[MIXED]
        found.metrics.update(LabelledTexts.of(labelled.columns, readouts.candidates).metrics(distances, chances))
    return found


def search_scores(scores: Mapping[str, np.ndarray], candidates: np.ndarray, queries: Queries) -> TextScores:
    """What the scores of one or more read-outs come to.

    Args:
        scores: read-out → (Q, L), of which less is better.
        candidates: (L,) six-digit codes.
    """
    by_query: dict[str, np.ndarray] = {}
    metrics: dict[str, float] = {}
    for readout, values in scores.items():
        of_query = query_scores(values, candidates, queries.codes)
        mark = "" if readout == CODE else f"{readout}/"
        by_query |= {f"{mark}{name}": row[queries.held_out] for name, row in of_query.items()}
        for prefix, (rows, names) in queries.subsets().items():
            metrics |= means({f"{prefix}{mark}{name}": of_query[name][rows] for name in names})
    return TextScores(by_query, metrics)


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each score; NaN, null in JSON, where there is no query."""
    return {name: float(values.mean()) if values.size else float("nan") for name, values in scores.items()}


def query_metrics(
    distances: np.ndarray, candidates: np.ndarray | Sequence[str], truth: np.ndarray | Sequence[str]
) -> dict[str, float]:
    """Means of `query_scores`."""
    return means(query_scores(distances, candidates, truth))


def query_scores(
    distances: np.ndarray, candidates: np.ndarray | Sequence[str], truth: np.ndarray | Sequence[str]
) -> dict[str, np.ndarray]:
    """What each query scores: name → (Q,) float64.

    query_top{k} and query_mrr are of the right code; query_top1_digits_{n} is whether the nearest candidate agrees with
    it in its first n digits (sectors 31-33, 44-45 and 48-49 are one each); query_hierarchical_f1 is the harmonic mean
    of precision and recall of the nearest candidate's ancestors, itself among them, against the right code's
    (Kiritchenko et al., 2006): with five on either side, the shared ones over five.

    Args:
        distances: (Q, L) from each query to each candidate, or any score of which less is better.
        candidates: (L,) six-digit codes.
        truth: (Q,) the right code of each query, one of the candidates.
    """
    candidates, truth = np.asarray(candidates, dtype=np.str_), np.asarray(truth, dtype=np.str_)
    right = positions(candidates, truth)
    own = np.take_along_axis(distances, right[:, None], axis=1)
    closer = np.count_nonzero(distances < own, axis=1)
    tied = np.count_nonzero(distances == own, axis=1)
    scores = {f"query_top{k}": np.clip((k - closer) / tied, 0, 1) for k in RANKS}
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(candidates) + 1))])
    scores["query_mrr"] = (harmonic[closer + tied] - harmonic[closer]) / tied

    query, nearest = np.nonzero(distances == distances.min(axis=1, keepdims=True))
    ancestors = _ancestors(candidates)
    shared = ancestors[nearest] == ancestors[right[query]]
    weight = 1 / np.bincount(query, minlength=len(truth))[query]
    for column, digits in enumerate(LEVELS[:-1]):
        agrees = weight * shared[:, column]
        scores[f"query_top1_digits_{digits}"] = np.bincount(query, weights=agrees, minlength=len(truth))
    overlap = weight * shared.sum(axis=1) / _FULL_DEPTH
    scores["query_hierarchical_f1"] = np.bincount(query, weights=overlap, minlength=len(truth))
    return scores


def _ancestors(codes: np.ndarray) -> np.ndarray:
    """(L, 5): each code's ancestors from the sector down, the code itself last."""
    return np.array([[sector_of(code), *(code[:digits] for digits in LEVELS[1:])] for code in codes.tolist()])
