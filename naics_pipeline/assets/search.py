"""What users search with: the index of the newest text model."""

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import asset, data_version, logger, place, version
from naics_pipeline.assets.evaluation import frozen_vectors
from naics_pipeline.assets.text_model import FINAL, NAME, PLACES, QUERIES
from naics_pipeline.config import Config
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

INDEX = "naics_index"


@asset(
    group_name="search",
    kinds={"pytorch", "scikitlearn", "parquet"},
    code_version=version(1, "seed", "vintage", "model.base", "model.base_sha256"),
    deps=["text_embeddings", "triplets"],
)
def naics_index(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    descriptions: pl.DataFrame,
) -> dg.MaterializeResult:
    """One directory with all that a search needs: points, words, weights, calibration, titles, and a manifest."""
    from naics_pipeline.search.index import Ingredients, write_index
    from naics_pipeline.text_model.checkpoints import BEST
    from naics_pipeline.text_model.embeddings import read_embeddings

    encode = frozen_vectors(conf, store)

    def texts(name: str, file: str) -> "Embeddings":
        return encode.with_vectors(name, read_embeddings(store.local(file)))

    ingredients = Ingredients(
        descriptions=descriptions,
        space=read_embeddings(store.local(NAME)),
        places=texts("places", PLACES),
        queries=texts("queries", QUERIES),
        checkpoint=store.local(f"stages/{FINAL.name}") / BEST,
        vintage=conf.settings.vintage,
        seed=conf.settings.seed,
    )
    manifest = write_index(store.path(INDEX), ingredients)
    store.publish(INDEX)
    described = {name: manifest[name] for name in ("index_version", "vintage", "codes", "base", "fitted_on")}
    logger.info("index %s, %d codes", manifest["index_version"], manifest["codes"])
    return dg.MaterializeResult(
        metadata={**described, "blend": dg.MetadataValue.json(manifest["blend"]), **place(store, INDEX)},
        data_version=data_version(manifest["files"]),
    )
