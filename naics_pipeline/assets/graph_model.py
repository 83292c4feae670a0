"""The graph model: the text model's points, refined on the graph of the taxonomy."""

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import (
    ACCELERATOR_POOL,
    asset,
    data_version,
    logger,
    origin,
    place,
    version,
    versions_of,
)
from naics_pipeline.assets.text_model import EMBEDDING_COLUMNS
from naics_pipeline.assets.text_model import NAME as TEXT
from naics_pipeline.assets.text_model import QUERIES as TEXT_QUERIES
from naics_pipeline.config import Config
from naics_pipeline.resources import Accelerator, TrackedRun, Tracking
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

NAME = "refined_embeddings.parquet"
QUERIES = "refined_queries.parquet"
QUERY_MAP = "refined_query_map.npz"
TRAINING = "reports/refinement.json"


@asset(
    group_name="graph_model",
    kinds={"pytorch", "parquet", "mlflow"},
    code_version=version(4, "seed", "graph", "training.validation_fraction"),
    deps=["text_embeddings", "triplets"],
    metadata=EMBEDDING_COLUMNS,
    pool=ACCELERATOR_POOL,
)
def refined_embeddings(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    accelerator: Accelerator,
    tracking: Tracking,
    descriptions: pl.DataFrame,
) -> dg.MaterializeResult:
    """One row per code: its point after refinement on the graph of the taxonomy.

    Beside it refined_query_map.npz, which brings free text into that space, and refined_queries.parquet: the points
    that it gives the index entries that no training saw. Euclidean points cannot be refined: they stay as they are,
    which their file says.
    """
    from naics_pipeline.evaluation.compare import failures, gate, mean_interval
    from naics_pipeline.evaluation.metrics_files import write_metrics
    from naics_pipeline.evaluation.structure import evaluate_embeddings
    from naics_pipeline.graph_model.query_map import QueryMap
    from naics_pipeline.graph_model.refine import refine
    from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
    from naics_pipeline.text_model.embeddings import GATE, PASSED, Embeddings, read_embeddings, write_embeddings

    settings = conf.settings
    tree = Tree.from_codes(descriptions["code"].to_list())
    text = read_embeddings(store.local(TEXT))
    if text.geometry != "lorentz":
        return unrefined(context, store, text)
    with accelerator.claimed(context) as device, tracking.start_run(context, conf.flat(), stage="graph") as run:
        refinement = refine(
            text,
            tree,
            excluded_matrix(descriptions, tree),
            settings.graph,
            seed=settings.seed,
            accelerator=device,
            held_out=held_out_pairs(tree, settings.training.validation_fraction),
            on_epoch=partial(follow, run, -(-settings.graph.steps // settings.graph.steps_per_epoch)),
        )
        run.log_inputs(versions_of({"descriptions": descriptions}), store.root)
        refined = Embeddings(tree.codes, refinement.points, refinement.curvature)
        failed = failures(gate(evaluate_embeddings(text, tree=tree), evaluate_embeddings(refined, tree=tree)))
        if failed:
            logger.warning("these points fail the gate: %s", failed)
        place_of_points = f"{store.root}/{NAME}"
        loaded_by = f"naics_pipeline.text_model.embeddings.read_embeddings(Path({place_of_points!r}))"
        model = run.log_stored_model("refined_embeddings", place_of_points, loaded_by)
        run.log_metrics(refinement.metrics | {"gate_passed": not failed}, model_id=model)
        made = {"stage": "graph", "run_id": context.run.run_id, GATE: failed or PASSED}
        made |= refined_origin(conf, text, refined, descriptions)
        refined = replace(refined, metadata=made)
        query_map = QueryMap.fit(text, refined)
        entries = read_embeddings(store.local(TEXT_QUERIES))
        logger.info("%s entries that no training saw, into the refined space", f"{len(entries.codes):,}")
        queries = replace(entries, points=query_map.apply(entries.points), curvature=refined.curvature, metadata=made)
        write_embeddings(refined, store.path(NAME))
        write_embeddings(queries, store.path(QUERIES))
        query_map.save(store.path(QUERY_MAP))
        write_metrics(
            store.path(TRAINING),
            {
                "history": refinement.history,
                "metrics": refinement.metrics,
                "intervals": {name: mean_interval(hits) for name, hits in refinement.hits.items()},
                "space": made["space"],
            },
        )
    for name in (NAME, QUERIES, QUERY_MAP, TRAINING):
        store.publish(name)
    logger.info("%s points, curvature %.3f", f"{len(tree):,}", refinement.curvature)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(tree),
            "curvature": refinement.curvature,
            "gate": failed or PASSED,
            **refinement.metrics,
            **place(store, NAME),
        },
        data_version=data_version(refinement.points.tobytes(), refinement.curvature, queries.points.tobytes()),
    )


def unrefined(context: dg.AssetExecutionContext, store: Store, text: "Embeddings") -> dg.MaterializeResult:
    """The text model's points where the graph model has none: it refines points of the Lorentz model only."""
    from naics_pipeline.evaluation.metrics_files import write_metrics
    from naics_pipeline.text_model.embeddings import GATE, SKIPPED, read_embeddings, write_embeddings

    logger.warning("%s points are not refined: the graph model knows the Lorentz model only", text.geometry)
    made = {"run_id": context.run.run_id, "made_from": text.metadata.get("space") or text.version, GATE: SKIPPED}
    for name, points in ((NAME, text), (QUERIES, read_embeddings(store.local(TEXT_QUERIES)))):
        write_embeddings(replace(points, metadata=points.metadata | made), store.path(name))
    write_metrics(store.path(TRAINING), {"history": [], "metrics": {}, "space": text.metadata.get("space")})
    store.remove(QUERY_MAP)
    for name in (NAME, QUERIES, TRAINING):
        store.publish(name)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(text.codes), "gate": SKIPPED, **place(store, NAME)},
        data_version=data_version(SKIPPED, text.version),
    )


def refined_origin(
    conf: Config, text: "Embeddings", refined: "Embeddings", descriptions: pl.DataFrame
) -> dict[str, str]:
    """What the refined points say of themselves: their version, that of the text points, and both settings."""
    made = origin(conf, {"descriptions": descriptions}, "graph", "training.validation_fraction")
    before = json.loads(text.metadata.get("origin", "{}"))
    # The seed of the refinement need not be that of the text model.
    settings = before.get("settings", {}) | made["settings"] | {"graph.seed": conf.settings.seed}
    made = {**made, "settings": settings, "data": before.get("data", {}) | made["data"]}
    return {
        "space": refined.version,
        "made_from": text.metadata.get("space") or text.version,
        "origin": json.dumps(made),
    }


def follow(run: TrackedRun, epochs: int, epoch: int, values: dict[str, float]) -> None:
    """Records an epoch; every fifth is worth a line of the log."""
    run.log_metrics(values, epoch)
    if epoch % 5 == 0:
        logger.info("epoch %d of %d: loss %.3f", epoch, epochs, values["loss"])
