"""How well index entries find their code: each is a query, the candidates are the six-digit codes.

Ties are averaged: a query whose right code shares its distance with others counts what it would count on average over
all orders of these. A method that gives every candidate the same distance therefore scores chance, not 0 or 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import polars as pl

from naics_pipeline.evaluation.compare import calibration_intervals
from naics_pipeline.evaluation.labelled import MIXED_PARTS, PARTS, LabelledTexts
from naics_pipeline.scorers.calibration import calibration_metrics
from naics_pipeline.scorers.embedding import EmbeddingScorer
from naics_pipeline.scorers.ensemble import BLEND, CODE, MIXED, CalibratedBlend, blends_of, scorers_of_space, scores_of
from naics_pipeline.scorers.levels import Levels
from naics_pipeline.scorers.scorer import Scorer, positions
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
        by_query: name → (Q,) scores of all entries; `query_top1` is of the code read-out, those of others bear its
            name: `mixed/query_top1`.
        queries: what is known of the entries.
        metrics: their means; those over other rows bear the rows' name as well: `unrepeated/query_top1` without what
            Census says twice, `validation/mixed/query_top1`, `labelled/parts/top1`.
        by_text: name → (T,) scores of labelled texts.
        texts: (T,) rows of the labelled texts that the scores are of.
        intervals: metric → bounds, of metrics that are no means of scores.
    """

    by_query: dict[str, np.ndarray]
    queries: Queries
    metrics: dict[str, float]
    by_text: dict[str, np.ndarray] = field(default_factory=dict)
    texts: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def held_out(self) -> dict[str, np.ndarray]:
        """Name → (H,) scores of the held-out entries."""
        return {name: values[self.queries.held_out] for name, values in self.by_query.items()}


def evaluate_texts(
    space: Embeddings,
    queries: Embeddings,
    places: Embeddings | None = None,
    labelled: Embeddings | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> TextScores:
    """Texts searched among the six-digit codes of a space, by each scorer and by their blends.

    Blends and their calibration are fitted on the validation queries, while the scorers do not know these
    (`ensemble.learn`).

    Args:
        queries: points of index entries, each with its right code, and the columns split and repeated.
        places: texts below their codes; without them a text is read by the codes' points alone.
        labelled: points of labelled texts and their parts, with the columns of `labelled.read_labelled`.
        scorers: by name, those of the space first; they may ask for the columns text and vector of all these.
            None: those of the space alone.
    Raises:
        ModelError: queries, places or labelled texts are points of another space.
    """
    codes = space.at(space.level == max(LEVELS))
    scorers = dict(scorers or scorers_of_space()) if places is not None else {CODE: EmbeddingScorer()}
    asked = Queries.of(queries.codes, queries.columns)
    rows = asked.validation
    scores = scores_of(scorers, codes if places is None else places, codes, queries, rows)
    right = positions(codes.codes, asked.codes[rows])
    blends = {
        name: CalibratedBlend.fit({member: scores[member][rows] for member in members}, right)
        for name, members in (blends_of(tuple(scorers)) if places is not None else {}).items()
    }
    chances = {name: blend.probabilities(scores) for name, blend in blends.items()}
    found = search_scores({name: -values for name, values in (scores | chances).items()}, codes.codes, asked)
    for name in (MIXED, BLEND):
        if name in blends:
            found.metrics.update(_fitted(name, blends[name]))
            found.metrics.update(level_calibration(name, chances[name], codes.codes, asked))
            for mark, answers in _first_answers(chances[name], codes.codes, asked).items():
                spans = calibration_intervals(*answers)
                found.intervals.update({f"{name}/{measure}{mark}": span for measure, span in spans.items()})
    if labelled is not None:
        of_texts = {name: scorer.scores(labelled) for name, scorer in scorers.items()}
        probable = {name: blend.probable(of_texts) for name, blend in blends.items()}
        by_name = {name: -values for name, values in of_texts.items()}
        by_name |= {name: -of_blend.chances for name, of_blend in probable.items()}
        texts = LabelledTexts.of(labelled.columns, codes.codes)
        by_parts = {
            name: probable[blend] for name, blend in ((PARTS, BLEND), (MIXED_PARTS, MIXED)) if blend in probable
        }
        found.metrics.update(texts.metrics(by_name, by_parts))
        found = replace(found, by_text=texts.scores(by_name, by_parts), texts=texts.whole)
    return found


def level_calibration(name: str, chances: np.ndarray, candidates: np.ndarray, queries: Queries) -> dict[str, float]:
    """Measures of the probability of the first answer at every level, over the held-out entries.

    Args:
        name: of the blend, the first word of each metric; `{name}/calibration_error` is of six digits.
        chances: (Q, L).
    """
    return {
        f"{name}/{measure}{mark}": value
        for mark, answers in _first_answers(chances, candidates, queries).items()
        for measure, value in calibration_metrics(*answers).items()
    }


def _first_answers(
    chances: np.ndarray, candidates: np.ndarray, queries: Queries
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """End of a level's metrics → probability of the first answer and whether it is right, (H,) each."""
    levels, rows = Levels.of(candidates), queries.held_out
    right = positions(candidates, queries.codes[rows])
    found = {}
    for level in LEVELS:
        of_level = levels.probabilities(chances[rows], level)
        agrees = of_level.argmax(axis=1) == levels.above[level][right]
        found["" if level == max(LEVELS) else f"_digits_{level}"] = of_level.max(axis=1), agrees
    return found


def _fitted(name: str, blend: CalibratedBlend) -> dict[str, float]:
    parameters = {f"weight_{scorer}": weight for scorer, weight in blend.blend.weights.items()}
    parameters |= {f"far_weight_{scorer}": weight for scorer, weight in blend.blend.far.items()}
    parameters |= {f"calibration_{key}": value for key, value in asdict(blend.calibration).items()}
    return {f"{name}/{key}": value for key, value in parameters.items()}


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
        by_query |= {f"{mark}{name}": row for name, row in of_query.items()}
        for prefix, (rows, names) in queries.subsets().items():
            metrics |= means({f"{prefix}{mark}{name}": of_query[name][rows] for name in names})
    return TextScores(by_query, queries, metrics)


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
