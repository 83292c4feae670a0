"""Embedding files: one row per code, or per text of a known code, with its point; the geometry in the metadata."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from naics_pipeline.errors import ModelError
from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.taxonomy.tree import Tree

GATE, PASSED, SKIPPED = "gate", "passed", "refinement skipped"
"""Metadata of refined points: that they keep what the text model's had, or are the same; else, what they lost."""
_COLUMNS = ("index", "level", "code", "point")


@dataclass(frozen=True)
class Embeddings:
    """Points of N codes, or of N texts.

    Attributes:
        codes: (N,) strings, in the order of the rows; of texts, the code that each belongs to.
        points: (N, d + 1) float64 on the hyperboloid, time coordinate first; (N, d) where geometry is euclidean.
        curvature: c > 0 of a space with sectional curvature -c.
        metadata: what else the file says of its origin: stage, run_id, and `space`, the version of the codes' points
            that these points are read against.
        columns: N rows of what else is known of each code or text (split, kind, text, ...); none by default.
    """

    codes: np.ndarray
    points: np.ndarray
    curvature: float = 1.0
    geometry: str = "lorentz"
    metadata: dict[str, str] = field(default_factory=dict)
    columns: pl.DataFrame = field(default_factory=pl.DataFrame)

    def __post_init__(self) -> None:
        if self.columns.width and self.columns.height != len(self.codes):
            raise ModelError(
                f"{len(self.codes)} points with {self.columns.height} rows of {', '.join(self.columns.columns)}: "
                "give one row for each point."
            )

    @property
    def level(self) -> np.ndarray:
        """(N,) int8, the number of digits of each code."""
        return np.char.str_len(self.codes.astype(str)).astype(np.int8)

    @property
    def version(self) -> str:
        """A hash of the codes, their points and their geometry."""
        points = np.ascontiguousarray(self.points, dtype=np.float64)
        return fingerprint(self.codes.tolist(), points.tobytes(), float(self.curvature), self.geometry)

    @property
    def failed_gate(self) -> str:
        """What these points lost against those that they were made from; empty where nothing, or nothing is known."""
        verdict = self.metadata.get(GATE, PASSED)
        return "" if verdict in (PASSED, SKIPPED) else verdict

    @property
    def is_unrefined(self) -> bool:
        """Whether these are the text model's points under the name of refined ones."""
        return self.metadata.get(GATE) == SKIPPED

    def at(self, rows: np.ndarray) -> "Embeddings":
        """Some of the points with what is known of them: positions, or (N,) booleans."""
        rows = np.arange(len(self.codes))[rows]
        columns = self.columns[rows] if self.columns.width else self.columns
        return replace(self, codes=self.codes[rows], points=self.points[rows], columns=columns)

    def frame(self) -> pl.DataFrame:
        """The rows of the file: index, level, code, point, and the further columns."""
        points = pl.DataFrame(
            {
                "index": pl.Series(np.arange(len(self.codes)), dtype=pl.UInt32),
                "level": pl.Series(self.level, dtype=pl.UInt8),
                "code": pl.Series(self.codes.tolist(), dtype=pl.String),
                "point": pl.Series(self.points, dtype=pl.Array(pl.Float64, self.points.shape[1])),
            }
        )
        return points.hstack(self.columns) if self.columns.width else points


def aligned(embeddings: Embeddings, tree: Tree) -> Embeddings:
    """The embeddings of a taxonomy's codes, in the order of the tree.

    Raises:
        ModelError: the two do not hold the same codes.
    """
    order = np.argsort(embeddings.codes)
    if not np.array_equal(embeddings.codes[order], tree.codes):
        difference = sorted(set(embeddings.codes.tolist()) ^ set(tree.codes.tolist()))
        raise ModelError(
            f"the embeddings hold {len(order)} codes, the taxonomy {len(tree)}; first that differs: "
            f"{difference[0] if difference else 'a repeated code'}. Use the taxonomy they come from, or materialize "
            "text_embeddings again from this source."
        )
    return embeddings.at(order)


def write_embeddings(embeddings: Embeddings, path: Path) -> None:
    """Writes the file of `Embeddings`; a reader sees the old one or the new one, never a part."""
    table = embeddings.frame().to_arrow()
    metadata = {
        **embeddings.metadata,
        "curvature": repr(float(embeddings.curvature)),
        "geometry": embeddings.geometry,
    }
    # Arrow's own schema metadata is kept: it tells other readers the type of the list column.
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_embeddings(path: Path) -> Embeddings:
    """Reads a file of embeddings in our schema.

    Raises:
        ModelError: the file is absent, is not Parquet, or lacks or mistypes a column; names file and column.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Materialize text_embeddings or refined_embeddings, or name another.")
    try:
        table = pq.read_table(path)
        table.validate(full=True)
        metadata = read_metadata(path)
        curvature = float(metadata.pop("curvature", 1.0))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable Parquet file ({error}). Write it again.") from error
    for column in ("code", "point"):
        if column not in table.column_names:
            raise ModelError(f"{path}: column '{column}' is missing; an embeddings file has index, level, code, point.")
    kind = table.schema.field("point").type
    if not pa.types.is_fixed_size_list(kind):
        raise ModelError(f"{path}: column 'point' is {kind}, not a fixed-size list of float64.")
    points = table["point"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ModelError(f"{path}: column 'point' holds a value that is not finite, first in row {row}.")
    return Embeddings(
        codes=np.array(table["code"].to_pylist(), dtype=str),
        points=points.astype(np.float64),
        curvature=curvature,
        geometry=metadata.pop("geometry", "lorentz"),
        metadata={key: value for key, value in metadata.items() if not key.startswith("ARROW")},
        columns=_further_columns(table),
    )


def read_metadata(path: Path) -> dict[str, str]:
    """What a file of embeddings says of its origin, without its points."""
    return {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}


def _further_columns(table: pa.Table) -> pl.DataFrame:
    names = [name for name in table.column_names if name not in _COLUMNS]
    return pl.DataFrame(pl.from_arrow(table.select(names))) if names else pl.DataFrame()
