"""What the points are worth to somebody else's model: a number known of some codes, predicted for codes never seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.compare import Comparison, paired_bootstrap
from naics_pipeline.evaluation.distances import tangent_vectors
from naics_pipeline.taxonomy.tree import MERGED_SECTORS, Tree
from naics_pipeline.text_model.embeddings import Embeddings

FOLDS = 5
EMBEDDING, ANCESTORS, ONE_HOT = "embedding", "ancestors", "one-hot"
_ALPHAS = np.logspace(-2, 5, 15)
_FEWEST_CODES = 10


@dataclass(frozen=True)
class Table:
    """A user's numbers of codes.

    Attributes:
        code: (n,) position of each row's code in the tree.
        target: (n,) float64.
        unknown: codes of the file that the tree does not have.
    """

    code: np.ndarray
    target: np.ndarray
    unknown: list[str]


@dataclass(frozen=True)
class Prediction:
    """Predictions for codes that the fit never saw, by one kind of features.

    Attributes:
        predicted: (n,) in the order of the table's rows.
        r2: share of the target's variance that they explain, against the mean of all rows.
        mae: mean absolute error.
        against: the gain in absolute error of the embedding over these features, paired by code: positive where the
            embedding errs less; None for the embedding itself.
    """

    predicted: np.ndarray
    r2: float
    mae: float
    against: Comparison | None


def read_table(path: Path, target: str, tree: Tree, code: str = "code") -> Table:
    """A CSV or Parquet file with a column of codes and one of numbers; rows without a number are left out.

    Raises:
        NaicsError: the file cannot be read, lacks a column, holds what is no number, or too few known codes.
    """
    try:
        rows = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NaicsError(f"{path}: not a readable CSV or Parquet file ({error}).") from error
    for column in (code, target):
        if column not in rows.columns:
            raise NaicsError(f"{path}: no column '{column}'; there are {', '.join(rows.columns)}.")
    rows = rows.select(code=pl.col(code).cast(pl.String).str.strip_chars(), given=pl.col(target))
    rows = rows.with_columns(value=pl.col("given").cast(pl.Float64, strict=False))
    no_number = rows.filter(pl.col("given").is_not_null() & pl.col("value").is_null())
    if no_number.height:
        raise NaicsError(f"{path}: column '{target}' holds {no_number['given'][0]!r}, which is no number.")
    rows = rows.drop_nulls(["code", "value"]).with_columns(
        code=pl.col("code").str.split("-").list.first().replace(MERGED_SECTORS)
    )
    known = rows.filter(pl.col("code").is_in(tree.codes.tolist()))
    unknown = rows.filter(~pl.col("code").is_in(tree.codes.tolist()))["code"].unique().sort().to_list()
    if known["code"].n_unique() < _FEWEST_CODES:
        raise NaicsError(
            f"{path}: only {known['code'].n_unique()} codes with a number are codes of these embeddings; at least "
            f"{_FEWEST_CODES} are needed. Unknown are {', '.join(unknown[:5]) or 'none'}."
        )
    return Table(tree.position(known["code"]), known["value"].to_numpy(), unknown)


def predictions(table: Table, embeddings: Embeddings, tree: Tree, *, seed: int) -> dict[str, Prediction]:
    """Ridge regression on the points, on the codes' ancestors and on the codes alone, over five folds of codes.

    All rows of a code are in one fold: what is predicted is always a code that the fit has not seen. A code alone then
    says nothing, and its row shows what the mean is worth.

    Args:
        embeddings: of the tree's codes; their tangent vectors at the origin are the features.
        seed: of folds and bootstrap.
    """
    features = {
        EMBEDDING: tangent_vectors(embeddings, tree),
        ANCESTORS: _ancestors(tree),
        ONE_HOT: np.eye(len(tree)),
    }
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=seed).split(table.code, groups=table.code))
    predicted = {name: _out_of_fold(values[table.code], table.target, folds) for name, values in features.items()}
    errors = {name: _by_code(np.abs(values - table.target), table.code) for name, values in predicted.items()}
    spread = float(((table.target - table.target.mean()) ** 2).sum())
    found = {}
    for name, values in predicted.items():
        against = None if name == EMBEDDING else paired_bootstrap(errors[EMBEDDING], errors[name], seed=seed)
        residual = float(((values - table.target) ** 2).sum())
        r2 = 1 - residual / spread if spread else float("nan")
        found[name] = Prediction(values, r2, float(np.abs(values - table.target).mean()), against)
    return found


def _ancestors(tree: Tree) -> np.ndarray:
    """(N, N) whether the code of the column is the code of the row or lies above it."""
    above, table = np.zeros((len(tree), len(tree))), tree.ancestors()
    for column in table.T:
        rows = np.flatnonzero(column >= 0)
        above[rows, column[rows]] = 1
    return above


def _out_of_fold(features: np.ndarray, target: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    predicted = np.empty_like(target)
    # One scale for all features: columns that are ones here and zeros there must not be blown up.
    features = features / max(float(features.std()), 1e-12)
    for seen, unseen in folds:
        model = make_pipeline(StandardScaler(with_std=False), RidgeCV(alphas=_ALPHAS)).fit(features[seen], target[seen])
        predicted[unseen] = model.predict(features[unseen])
    return predicted


def _by_code(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Mean of the values of each code, in the order of the codes."""
    _, place = np.unique(code, return_inverse=True)
    return np.bincount(place, weights=values) / np.bincount(place)


def summary(found: Mapping[str, Prediction]) -> dict[str, dict[str, float | str | None]]:
    """Features → r2, mae, and how much less the embedding errs, with its interval."""
    return {
        name: {
            "r2": row.r2,
            "mae": row.mae,
            "embedding_errs_less_by": None if row.against is None else row.against.difference,
            "low": None if row.against is None else row.against.low,
            "high": None if row.against is None else row.against.high,
        }
        for name, row in found.items()
    }
