"""Points for viewers of others: TensorBoard's projector, and Embedding Atlas."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from naics_pipeline.evaluation.distances import tangent_vectors
from naics_pipeline.evaluation.explorer.spaces import NEIGHBOURS, PicturedSpace
from naics_pipeline.evaluation.layout import nearest_of
from naics_pipeline.files import replacing
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings

_CONFIG = """embeddings {
  tensor_name: "NAICS codes"
  tensor_path: "vectors.tsv"
  metadata_path: "metadata.tsv"
}
"""


def export_projector(space: Embeddings, titles: Mapping[str, str], directory: Path) -> None:
    """A directory for `tensorboard --logdir`: vectors.tsv, metadata.tsv and the file that names both.

    The viewer measures in Euclidean space, so what it gets are tangent vectors at the origin: distances from the
    origin are right, those between codes are not.

    Args:
        titles: code → title.
    """
    tree = Tree.from_codes(space.codes.tolist())
    tangent = tangent_vectors(space, tree)
    with replacing(directory) as temporary:
        temporary.mkdir()
        lines = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in tangent.tolist())
        (temporary / "vectors.tsv").write_text(lines + "\n", encoding="utf-8")
        _metadata(tree, titles).write_csv(temporary / "metadata.tsv", separator="\t", quote_style="never")
        (temporary / "projector_config.pbtxt").write_text(_CONFIG, encoding="utf-8")


def export_atlas(space: Embeddings, titles: Mapping[str, str], path: Path) -> None:
    """A Parquet file for `embedding-atlas FILE --text title --x x --y y --neighbors neighbors`.

    x and y are places in the Poincaré disk (`evaluation.layout`); neighbors are those of the full space, as row
    numbers with distances, each code itself first.

    Args:
        titles: code → title.
    """
    tree = Tree.from_codes(space.codes.tolist())
    pictured = PicturedSpace.of(space, tree)
    k = min(NEIGHBOURS, len(tree) - 1)
    near = nearest_of(pictured.distances, k) if k else np.empty((len(tree), 0), dtype=np.int64)
    ids = np.column_stack([np.arange(len(tree)), near])
    distances = np.take_along_axis(pictured.distances, ids, axis=1)
    neighbours = pl.DataFrame({"ids": ids.astype(np.int64).tolist(), "distances": distances.tolist()})
    frame = _metadata(tree, titles).with_columns(
        x=pl.Series(pictured.layout.places[:, 0]),
        y=pl.Series(pictured.layout.places[:, 1]),
        radius=pl.Series(pictured.radii),
        neighbors=neighbours.to_struct("neighbors"),
    )
    with replacing(path) as temporary:
        frame.write_parquet(temporary)


def _metadata(tree: Tree, titles: Mapping[str, str]) -> pl.DataFrame:
    codes = tree.codes.tolist()
    # A tab or a line end would begin another cell of the projector's file.
    shown = {code: " ".join(title.split()) for code, title in titles.items()}
    sectors = tree.codes[tree.sector].tolist()
    return pl.DataFrame(
        {
            "code": codes,
            "title": [shown.get(code, "") for code in codes],
            "level": tree.level.astype(np.int64),
            "sector": sectors,
            "sector_title": [shown.get(sector, "") for sector in sectors],
        }
    )
