"""What an evaluation leaves for good: the score of each query and each code, and what exactly was measured.

One Parquet file for each evaluation of a run: scores/<run>/text.parquet and scores/<run>/refined.parquet, with the
columns run, space, metric, key and value. The key is the code, or the right code and the words of a text; the mean of a
metric's values is the metric (see `influence.py` for those over all pairs). The file's metadata holds the record: all
metrics, and settings, versions and data of what was measured, as the measured points say them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.metrics_files import plain
from naics_pipeline.evaluation.retrieval import TextScores
from naics_pipeline.files import replacing
from naics_pipeline.storage import Store

FOLDER = "scores"
COLUMNS = ("run", "space", "metric", "key", "value")
_RECORD = "record"


def runs_in(store: Store) -> "list[RunRecord]":
    """Every run that a data directory keeps, the newest first."""
    files: dict[str, list[Path]] = {}
    for name in store.names(FOLDER):
        _, run, _ = name.split("/")
        files.setdefault(run, []).append(store.local(name))
    found = [RunRecord.read(of_run, run) for run, of_run in files.items()]
    return sorted(found, key=lambda run: run.created, reverse=True)


def scores_frame(keys: Sequence[str] | np.ndarray | pl.Series, scores: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """metric, key, value: a row for each score that is a number.

    Args:
        keys: (n,) what was scored.
        scores: metric → (n,).
    """
    name, empty = pl.Series("key", list(keys), dtype=pl.String), pl.DataFrame(schema=_SCORED)
    frames = [
        pl.DataFrame({"key": name, "value": np.asarray(values, dtype=np.float64)})
        .filter(pl.col("value").is_not_nan())
        .select(pl.lit(metric).alias("metric"), "key", "value")
        for metric, values in scores.items()
    ]
    return pl.concat([empty, *frames])


_SCORED = {"metric": pl.String, "key": pl.String, "value": pl.Float64}


def scores_of_texts(found: TextScores, keys: pl.Series, labelled_keys: pl.Series | None = None) -> pl.DataFrame:
    """metric, key, value of entries, those of some under the name of what they are, and of labelled texts.

    Args:
        keys: (Q,) what the entries are called.
        labelled_keys: what the rows of labelled texts are called.
    """
    frames = [
        scores_frame(
            keys.filter(pl.Series(rows)),
            {
                f"{prefix}{name}": values[rows]
                for name, values in found.by_query.items()
                if name.rpartition("/")[2] in names
            },
        )
        for prefix, (rows, names) in found.queries.subsets().items()
    ]
    if labelled_keys is not None:
        frames.append(scores_frame(labelled_keys.gather(found.texts), found.by_text))
    return pl.concat(frames)


def text_keys(codes: Iterable[str], texts: Iterable[str]) -> pl.Series:
    """What texts are called: the right code and the words."""
    return pl.Series([f"{code} {text}" for code, text in zip(codes, texts, strict=True)], dtype=pl.String)


def write_scores(path: Path, run: str, spaces: Mapping[str, pl.DataFrame], record: Mapping[str, Any]) -> None:
    """Writes the scores of an evaluation with its record.

    Args:
        run: its name.
        spaces: space → frames of `scores_frame`.
        record: JSON-like; see `RunRecord`.
    """
    frames = [
        frame.select(pl.lit(run).alias("run"), pl.lit(name).alias("space"), *_SCORED) for name, frame in spaces.items()
    ]
    with replacing(path) as temporary:
        pl.concat(frames).write_parquet(temporary, metadata={_RECORD: json.dumps(plain(record))})


def read_record(path: Path) -> dict[str, Any]:
    """The record of a file of scores, without its rows.

    Raises:
        NaicsError: it is no such file.
    """
    try:
        record: dict[str, Any] = json.loads(pl.read_parquet_metadata(path)[_RECORD])
    except (OSError, KeyError, ValueError, pl.exceptions.PolarsError) as error:
        raise NaicsError(f"{path}: no file of scores of this project ({error}). Evaluate the run again.") from error
    return record


@dataclass(frozen=True)
class RunRecord:
    """The evaluations of one run.

    Attributes:
        name: of the folder: the id of the run.
        files: evaluation (text, refined) → file of scores.
        records: evaluation → its record: `metrics` (space → metric → value), `measured` (what each space's points say
            of themselves: space, made_from, run_id, origin), `evaluated` (when, by which run, with which settings), and
            `curves` (stage → epochs).
    """

    name: str
    files: Mapping[str, Path]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Iterable[Path], name: str | None = None) -> "RunRecord":
        """From the files of scores of one run."""
        by_evaluation = {file.stem: file for file in sorted(files, reverse=True)}
        records = {evaluation: read_record(file) for evaluation, file in by_evaluation.items()}
        known = [record["evaluated"].get("run_id") for record in records.values()]
        return cls(name or next(iter(known), None) or "run", by_evaluation, records)

    def scores(self) -> pl.DataFrame:
        """All scores: run, space, metric, key, value."""
        return pl.concat([pl.read_parquet(file) for file in self.files.values()])

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Space → metric → value."""
        return {space: row for record in self.records.values() for space, row in record["metrics"].items()}

    @property
    def created(self) -> str:
        """When the last of its evaluations was made."""
        return max((str(record["evaluated"]["created"]) for record in self.records.values()), default="")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of what was measured and of the measuring, by dotted key."""
        found: dict[str, Any] = {}
        for record in self.records.values():
            for measured in record["measured"].values():
                found |= measured.get("origin", {}).get("settings", {})
            found |= record["evaluated"].get("settings", {})
        return found

    @property
    def data(self) -> dict[str, str]:
        """Table → fingerprint of what was read."""
        measured = [row for record in self.records.values() for row in record["measured"].values()]
        return {name: hashed for row in measured for name, hashed in row.get("origin", {}).get("data", {}).items()}

    @property
    def gate(self) -> list[dict[str, Any]]:
        """Fields of each rule; none where nothing was refined."""
        return [rule for record in self.records.values() for rule in record.get("gate", [])]

    @property
    def curves(self) -> dict[str, list[dict[str, float]]]:
        """Stage → its epochs."""
        return {stage: epochs for record in self.records.values() for stage, epochs in record["curves"].items()}

    @property
    def ids(self) -> set[str]:
        """Every name by which it may be asked for: of Dagster's runs and of MLflow's."""
        names = ("run_id", "mlflow_run_id", "mlflow_parent_run_id")
        evaluated = [record["evaluated"] for record in self.records.values()]
        return {self.name, *(row[name] for row in evaluated for name in names if row.get(name))}
