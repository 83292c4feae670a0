"""How well an index codes a labelled file of anyone's: the same measures as for the index entries."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.labelled import label_hits
from naics_pipeline.scorers.calibration import calibration_metrics
from naics_pipeline.search.index import Index
from naics_pipeline.taxonomy.tree import LEVELS

_BLOCK = 512


@dataclass(frozen=True)
class Benchmark:
    """What came out.

    Attributes:
        metrics: texts, left_out (without any code of this vintage), other_codes; top1, top5, top10, mrr;
            top1_digits_{n}; calibration_error, brier, answered_at_95, and calibration_error_digits_{n}.
        confusions: right (the best placed right code), answered, texts: what is taken for what, most often first.
        errors: text, right, answered, probability: wrong answers, the surest first.
    """

    metrics: dict[str, float]
    confusions: pl.DataFrame
    errors: pl.DataFrame


def read_labels(path: Path, text: str, codes: str) -> pl.DataFrame:
    """text, codes (list): the labelled rows of a CSV or Parquet file.

    Raises:
        NaicsError: the file cannot be read or lacks a column.
    """
    try:
        rows = pl.read_csv(path, infer_schema=False) if path.suffix.lower() == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NaicsError(f"{path}: not a readable CSV or Parquet file ({error}).") from error
    for column in (text, codes):
        if column not in rows.columns:
            raise NaicsError(f"{path}: has no column '{column}'. It has {', '.join(rows.columns)}.")
    return rows.select(
        text=pl.col(text).cast(pl.String).fill_null("").str.strip_chars(),
        codes=pl.col(codes).cast(pl.String).fill_null("").str.extract_all(r"\d+"),
    )


def benchmark(index: Index, rows: pl.DataFrame) -> Benchmark:
    """Codes every row and compares; the best of several right codes counts, those of other vintages are set apart.

    Args:
        rows: as `read_labels` gives them.
    Raises:
        NaicsError: no row has a text and a six-digit code of the index.
    """
    known = {code: column for column, code in enumerate(index.candidates.tolist())}
    right_codes = [[known[code] for code in dict.fromkeys(codes) if code in known] for codes in rows["codes"].to_list()]
    other = sum(len(set(codes)) for codes in rows["codes"].to_list()) - sum(map(len, right_codes))
    kept = [row for row, (text, right) in enumerate(zip(rows["text"], right_codes, strict=True)) if text and right]
    if not kept:
        raise NaicsError("no row has both a text and a six-digit code of this vintage: there is nothing to measure.")
    texts = [rows["text"][row] for row in kept]
    chances = np.concatenate(
        [index.predict_proba(texts[start : start + _BLOCK]) for start in range(0, len(texts), _BLOCK)]
    )
    is_right = np.zeros(chances.shape, dtype=bool)
    for place, row in enumerate(kept):
        is_right[place, right_codes[row]] = True
    metrics: dict[str, float] = {"texts": len(kept), "left_out": rows.height - len(kept), "other_codes": other}
    metrics |= {name: float(hits.mean()) for name, hits in label_hits(-chances, is_right).items()}
    best = np.where(is_right, chances, -1).argmax(axis=1)
    own = chances[np.arange(len(kept)), best]
    metrics["mrr"] = float((1 / np.maximum(1, np.count_nonzero(chances >= own[:, None], axis=1))).mean())
    metrics |= _by_level(index, chances, is_right)
    return Benchmark(metrics, *_mistakes(index, texts, chances, is_right, best))


def _by_level(index: Index, chances: np.ndarray, is_right: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for level in reversed(LEVELS):
        of_level = index.levels.probabilities(chances, level)
        right = index.levels.probabilities(is_right.astype(np.float64), level) > 0
        agrees = right[np.arange(len(right)), of_level.argmax(axis=1)]
        measured = calibration_metrics(of_level.max(axis=1), agrees)
        if level == max(LEVELS):
            found |= measured
        else:
            found[f"top1_digits_{level}"] = float(agrees.mean())
            found[f"calibration_error_digits_{level}"] = measured["calibration_error"]
    return found


def _mistakes(
    index: Index, texts: list[str], chances: np.ndarray, is_right: np.ndarray, best: np.ndarray
) -> tuple[pl.DataFrame, pl.DataFrame]:
    first = chances.argmax(axis=1)
    frame = pl.DataFrame(
        {
            "text": texts,
            "right": index.candidates[best].tolist(),
            "answered": index.candidates[first].tolist(),
            "probability": chances.max(axis=1),
            "is_right": is_right[np.arange(len(first)), first],
        }
    )
    wrong = frame.filter(~pl.col("is_right")).drop("is_right").sort("probability", descending=True)
    pairs = wrong.group_by("right", "answered").agg(texts=pl.len())
    return pairs.sort("texts", "right", "answered", descending=[True, False, False]), wrong
