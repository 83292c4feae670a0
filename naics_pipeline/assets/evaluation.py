"""What the embeddings are worth: metrics of the text model and of the refined points; the scores of every run."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from naics_pipeline.assets import graph_model
from naics_pipeline.assets.common import (
    asset,
    data_version,
    logger,
    place,
    read_settings,
    version,
    versions_of,
)
from naics_pipeline.assets.text_model import LABELLED, LINEAGE, PLACES
from naics_pipeline.assets.text_model import NAME as TEXT
from naics_pipeline.assets.text_model import QUERIES as TEXT_QUERIES
from naics_pipeline.config import Config
from naics_pipeline.errors import ModelError
from naics_pipeline.resources import TrackedRun, Tracking
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.evaluation.baselines import Baseline
    from naics_pipeline.evaluation.frozen import FrozenVectors
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import Embeddings

TEXT_METRICS = "reports/text_metrics.json"
REFINED_METRICS = "reports/refined_metrics.json"
FROZEN_VECTORS = "frozen_vectors"
READ_BY_EVALUATION = ("seed", "evaluation", "model.base", "model.base_sha256", "taxonomy")
READ_BY_REFINED_EVALUATION = ("seed", "evaluation.cutoffs", "graph.smoothing_rounds")


@asset(
    group_name="evaluation",
    kinds={"scikitlearn", "mlflow", "json"},
    code_version=version(13, *READ_BY_EVALUATION),
    deps=["text_embeddings", "triplets"],
)
def text_evaluation(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    tracking: Tracking,
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
) -> dg.MaterializeResult:
    """One set of metrics: the text model's points against the tree and on held-out entries, beside baselines."""
    from naics_pipeline.evaluation import summary
    from naics_pipeline.scorers.ensemble import all_scorers
    from naics_pipeline.scorers.words import WordTable
    from naics_pipeline.text_model.embeddings import read_embeddings

    settings = conf.settings
    tree, encode = tree_of(descriptions), frozen_vectors(conf, store)
    names = {"places": PLACES, "queries": TEXT_QUERIES}
    if settings.evaluation.labelled:
        names["labelled"] = LABELLED
    with tracking.start_run(context, conf.flat(), stage="text_evaluation") as run:
        texts = {name: encode.with_vectors(name, read_embeddings(store.local(file))) for name, file in names.items()}
        labelled = texts.get("labelled")
        found = summary.measure_text(
            read_embeddings(store.local(TEXT)),
            texts["queries"],
            tree,
            baselines=baseline_rows(conf, encode, descriptions, index_entries, tree, texts["places"], labelled),
            cutoffs=settings.evaluation.cutoffs,
            seed=settings.seed,
            places=texts["places"],
            labelled=labelled,
            scorers=all_scorers(settings.seed, WordTable.of(settings.model.base, settings.model.base_sha256)),
        )
        content = found.content | {"evaluated": evaluated(context, conf, run, *READ_BY_EVALUATION)}
        content["curves"] = {stage.name: stage_file(store, stage.name, "history.json")["epochs"] for stage in LINEAGE}
        run.log_inputs(versions_of({"descriptions": descriptions, "index_entries": index_entries}), store.root)
        log_metrics(run, content["text"], content["baselines"])
        record = content | {"metrics": {"text": content["text"], **content["baselines"]}}
        keep_scores(context, store, "text", found.scores, record)
        return publish_metrics(store, TEXT_METRICS, content, content["text"])


@asset(
    group_name="evaluation",
    kinds={"scikitlearn", "mlflow", "json"},
    code_version=version(5, *READ_BY_REFINED_EVALUATION),
    deps=["text_embeddings", "refined_embeddings", "triplets"],
)
def refined_evaluation(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    tracking: Tracking,
    descriptions: pl.DataFrame,
) -> dg.MaterializeResult:
    """One set of metrics: the refined points, beside plain smoothing and against the text model."""
    from naics_pipeline.evaluation import summary
    from naics_pipeline.text_model.embeddings import read_embeddings

    settings = conf.settings
    tree = tree_of(descriptions)
    with tracking.start_run(context, conf.flat(), stage="refined_evaluation") as run:
        queries = {"text": TEXT_QUERIES, "refined": graph_model.QUERIES}
        found = summary.measure_refined(
            spaces_of(conf, store, tree),
            {space: read_embeddings(store.local(name)) for space, name in queries.items()},
            tree,
            cutoffs=settings.evaluation.cutoffs,
            seed=settings.seed,
        )
        content = found.content | {"evaluated": evaluated(context, conf, run, *READ_BY_REFINED_EVALUATION)}
        content["curves"] = {"graph": refinement_of(store, content["measured"])["history"]}
        run.log_inputs(versions_of({"descriptions": descriptions}), store.root)
        own = content.get("refined", {})
        log_metrics(run, own, {"smoothed": content["smoothed"]})
        if own:
            run.log_result({"gate_passed": not found.failed_gate})
        if found.failed_gate:
            logger.warning("the refined points fail the gate: %s", found.failed_gate)
        record = content | {"metrics": {name: content[name] for name in found.scores}}
        keep_scores(context, store, "refined", found.scores, record)
        return publish_metrics(store, REFINED_METRICS, content, own or content["smoothed"])


def tree_of(descriptions: pl.DataFrame) -> "Tree":
    """The taxonomy as a tree."""
    from naics_pipeline.taxonomy.tree import Tree

    return Tree.from_codes(descriptions["code"].to_list())


def spaces_of(conf: Config, store: Store, tree: "Tree") -> "dict[str, Embeddings]":
    """Text, smoothed and refined embeddings."""
    from naics_pipeline.evaluation.summary import variants
    from naics_pipeline.text_model.embeddings import read_embeddings

    text, refined = (read_embeddings(store.local(name)) for name in (TEXT, graph_model.NAME))
    return variants(text, refined, tree, conf.settings.graph.smoothing_rounds)


def frozen_vectors(conf: Config, store: Store) -> "FrozenVectors":
    """The base model as it comes, with what it said of texts in earlier runs."""
    from naics_pipeline.evaluation.frozen import FrozenVectors
    from naics_pipeline.text_model.device import resolve

    model, device = conf.settings.model, str(resolve(conf.settings.accelerator))
    return FrozenVectors(model.base, model.base_sha256, device, store.path(FROZEN_VECTORS))


def baseline_rows(
    conf: Config,
    encode: "FrozenVectors",
    descriptions: pl.DataFrame,
    index_entries: pl.DataFrame,
    tree: "Tree",
    places: "Embeddings",
    labelled: "Embeddings | None",
) -> "dict[str, Baseline]":
    """What methods without training reach on the same texts; nothing where they are switched off."""
    from naics_pipeline.evaluation.baselines import baselines
    from naics_pipeline.taxonomy.text import repeated_entries

    if not conf.settings.evaluation.baselines:
        return {}
    return baselines(
        descriptions,
        index_entries.with_columns(repeated=repeated_entries(descriptions, index_entries)),
        encode,
        tree,
        seed=conf.settings.seed,
        places=places,
        labelled=None if labelled is None else labelled.columns,
    )


def evaluated(context: dg.AssetExecutionContext, conf: Config, run: TrackedRun, *keys: str) -> dict[str, Any]:
    """When and how something was measured: with which settings, recorded by which runs."""
    return {
        "run_id": context.run.run_id,
        "mlflow_run_id": run.run_id,
        "mlflow_parent_run_id": run.parent,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": read_settings(conf, *keys),
    }


def keep_scores(
    context: dg.AssetExecutionContext,
    store: Store,
    evaluation: str,
    scores: Mapping[str, pl.DataFrame],
    record: Mapping[str, Any],
) -> None:
    """Scores and record of an evaluation under the name of the run; no later run replaces them."""
    from naics_pipeline.evaluation.runs.scores import FOLDER, write_scores

    name = f"{FOLDER}/{context.run.run_id}/{evaluation}.parquet"
    write_scores(store.path(name), context.run.run_id, scores, record)
    store.publish(name)


def refinement_of(store: Store, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the graph model recorded of its training, where that is the training of the measured points.

    Args:
        measured: of refined_metrics.json.
    """
    from naics_pipeline.evaluation.metrics_files import read_metrics

    found = read_metrics(store.local(graph_model.TRAINING))
    refuse_mixture(graph_model.TRAINING, found.get("space"), "the refined embeddings", last_of(measured).get("space"))
    return found


def last_of(by_space: Mapping[str, Any]) -> Any:
    """What is of the refined space, or of the smoothed one where nothing was refined."""
    return by_space.get("refined", by_space.get("smoothed"))


def found_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of metrics says of the points, whichever run said it and when."""
    spaces = {name: measured.get("space") for name, measured in content["measured"].items()}
    return {name: value for name, value in content.items() if name not in ("evaluated", "curves")} | {
        "measured": spaces
    }


def refuse_mixture(what: str, of: str | None, beside: str, version: str | None) -> None:
    """Raises ModelError where a result was not made from the points that it stands beside."""
    if of and version and of != version:
        raise ModelError(
            f"{what} is of version {of} of the points, and {beside} are now version {version}: materialize what comes "
            "after the embeddings again, dagster asset materialize --select 'text_embeddings+'."
        )


def stage_file(store: Store, stage: str, name: str) -> Any:
    """A small result that lies beside a stage's checkpoint."""
    from naics_pipeline.evaluation.metrics_files import read_metrics

    return read_metrics(store.local(f"stages/{stage}/{name}"))


def log_metrics(run: TrackedRun, own: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> None:
    """The metrics under their own names, so that runs compare; what stands beside them, under its name.

    The pipeline's run has the metrics of its last evaluation under their own names, too.
    """
    run.log_result(own)
    run.log_metrics({f"{row}/{name}": value for row, metrics in others.items() for name, value in metrics.items()})


def publish_metrics(store: Store, name: str, content: dict[str, Any], own: Mapping[str, float]) -> dg.MaterializeResult:
    """Writes a file of metrics; its own ones become the asset's metadata."""
    from naics_pipeline.evaluation.metrics_files import plain, write_metrics

    write_metrics(store.path(name), content)
    store.publish(name)
    shown = ("cophenetic_correlation", "parent_retrieval@1", "query_top1", "blend/query_top1", "labelled/parts/top1")
    logger.info(", ".join(f"{metric} {own[metric]:.3f}" for metric in shown if metric in own))
    return dg.MaterializeResult(
        metadata={**{metric: float(value) for metric, value in own.items()}, **place(store, name)},
        data_version=data_version(found_in(plain(content))),
    )
