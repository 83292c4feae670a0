"""Which of two indexes people should be served: the newer one, unless it finds held-out entries worse."""

from dataclasses import dataclass

import polars as pl

from naics_pipeline.evaluation.compare import Comparison, paired_bootstrap
from naics_pipeline.evaluation.retrieval import Queries, level_calibration, search_scores
from naics_pipeline.evaluation.runs.scores import scores_frame, text_keys
from naics_pipeline.scorers.ensemble import CODE
from naics_pipeline.search.index import Index

DECIDES = "query_mrr"
"""The finest measure of a search: the whole rank of the right code counts, not only whether it is the first."""


@dataclass(frozen=True)
class Measured:
    """What an index makes of entries that no training saw.

    Attributes:
        metrics: by name; see `retrieval.query_scores`, and `index/calibration_error` and the like.
        scores: metric, key, value: each entry's own, as runs keep them.
    """

    metrics: dict[str, float]
    scores: pl.DataFrame


def measure_index(index: Index, entries: pl.DataFrame) -> Measured:
    """Searches entries as a user would search them: as a whole and by their parts, and calibrated.

    Args:
        entries: code, entry.
    Raises:
        ModelError: entries are of codes that the index does not know.
    """
    codes, texts = entries["code"].to_numpy().astype(str), entries["entry"].to_list()
    chances, queries = index.predict_proba(texts), Queries(codes)
    found = search_scores({CODE: -chances}, index.candidates, queries)
    metrics = found.metrics | level_calibration("index", chances, index.candidates, queries)
    return Measured(metrics, scores_frame(text_keys(codes.tolist(), texts), found.by_query))


@dataclass(frozen=True)
class Decision:
    """Whether a newer index takes the place of the one that reigns.

    Attributes:
        reason: in words, with the difference where there is one.
        comparison: of the two; None where nothing could be compared.
    """

    moves: bool
    reason: str
    comparison: Comparison | None = None


def decide(champion: pl.DataFrame, challenger: pl.DataFrame, *, name: str, seed: int) -> Decision:
    """The challenger takes over unless the interval of its difference lies below 0.

    Scores of different entries are not compared: nobody could tell the index from the questions.

    Args:
        champion, challenger: scores of either, as `measure_index` gives them.
        name: of the champion, for the reason.
        seed: of the bootstrap.
    """
    first, second = (scores.filter(metric=DECIDES).select("key", "value") for scores in (champion, challenger))
    if first.is_empty() and second.is_empty():
        return Decision(True, f"no entries are held out, so that nothing speaks for {name}")
    paired = first.join(second, on="key", suffix="_second").sort("key")
    if not paired.height == first.height == second.height:
        return Decision(
            False,
            f"{name} was measured on other held-out entries ({first.height:,}, of which {paired.height:,} are among "
            f"the {second.height:,} of this one), so that the two cannot be compared. Set the alias by hand, or "
            "another registry.model_name for another source or vintage",
        )
    values = (paired[column].to_numpy() for column in ("value", "value_second"))
    found = paired_bootstrap(*values, seed=seed)
    verdict = "worse than" if found.verdict == "worse" else "no worse than"
    difference = f"{DECIDES} {found.difference:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}"
    return Decision(found.verdict != "worse", f"{verdict} {name}: {difference}, on {found.n:,} held-out entries", found)
