"""The graph model: the text model's points, refined on the graph of the taxonomy."""

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import OWNERS, data_version, logger, place, version
from naics_pipeline.assets.text_model import EMBEDDING_COLUMNS, write_json
from naics_pipeline.config import Config
from naics_pipeline.resources import Tracking
from naics_pipeline.storage import Store

NAME = "refined_embeddings.parquet"


@dg.asset(
    group_name="graph_model",
    kinds={"pytorch", "parquet", "mlflow"},
    owners=OWNERS,
    code_version=version(1, "seed", "graph"),
    deps=["text_embeddings", "triplets"],
    metadata=EMBEDDING_COLUMNS,
    pool="gpu",
)
def refined_embeddings(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    tracking: Tracking,
    descriptions: pl.DataFrame,
) -> dg.MaterializeResult:
    """One row per code: its point after refinement on the graph of the taxonomy."""
    from naics_pipeline.graph_model.refine import refine
    from naics_pipeline.taxonomy.tree import Tree, excluded_matrix
    from naics_pipeline.text_model.embeddings import Embeddings, read_embeddings, write_embeddings

    settings = conf.settings
    tree = Tree.from_codes(descriptions["code"].to_list())
    text = read_embeddings(store.local("text_embeddings.parquet"))
    with tracking.start_run(context, conf.flat(), stage="graph") as run:
        refinement = refine(
            text,
            tree,
            excluded_matrix(descriptions, tree),
            settings.graph,
            seed=settings.seed,
            accelerator=settings.accelerator,
            on_epoch=lambda epoch, values: run.log_metrics(values, epoch),
        )
        run.log_metrics(refinement.metrics)
        write_embeddings(
            Embeddings(
                tree.codes,
                refinement.points,
                refinement.curvature,
                metadata={"stage": "graph", "run_id": context.run.run_id},
            ),
            store.path(NAME),
        )
        write_json(store.path("reports/graph_history.json"), refinement.history)
    store.publish(NAME)
    logger.info("%s points, curvature %.3f", f"{len(tree):,}", refinement.curvature)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(tree),
            "curvature": refinement.curvature,
            **refinement.metrics,
            **place(store, NAME),
        },
        data_version=data_version(refinement.points.tobytes(), refinement.curvature),
    )
