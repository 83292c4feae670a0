"""What the embeddings are worth: metrics of the text model, of the refined points, and the report on both."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from naics_pipeline.assets import graph_model
from naics_pipeline.assets.common import (
    MONTHLY,
    asset,
    data_version,
    logger,
    picture,
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
    from naics_pipeline.evaluation.report import ReportContent
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import Embeddings

TEXT_METRICS = "reports/text_metrics.json"
REFINED_METRICS = "reports/refined_metrics.json"
REPORT = "reports/index.html"
EXPLORER = "reports/explorer.html"
FROZEN_VECTORS = "frozen_vectors"
READ_BY_EVALUATION = ("seed", "evaluation", "model.base", "model.base_sha256", "taxonomy")
READ_BY_REFINED_EVALUATION = ("seed", "evaluation.cutoffs", "graph.smoothing_rounds")
EXAMPLES, NEIGHBOURS = 3, 8


@asset(
    group_name="evaluation",
    kinds={"scikitlearn", "mlflow", "json"},
    code_version=version(3, *READ_BY_EVALUATION),
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
            baselines=baseline_rows(conf, encode, descriptions, index_entries, tree, labelled),
            cutoffs=settings.evaluation.cutoffs,
            seed=settings.seed,
            places=texts["places"],
            labelled=labelled,
            scorers=all_scorers(settings.seed),
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
    code_version=version(3, *READ_BY_REFINED_EVALUATION),
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


@asset(
    group_name="evaluation",
    kinds={"html", "mlflow"},
    freshness_policy=MONTHLY,
    code_version=version(3, "source", "vintage", "graph.smoothing_rounds"),
    deps=["text_embeddings", "refined_embeddings", "text_evaluation", "refined_evaluation", "triplets"],
)
def evaluation_report(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    tracking: Tracking,
    descriptions: pl.DataFrame,
) -> dg.MaterializeResult:
    """One HTML page with every table and picture of this state, and one to explore it; neither needs anything else.

    index.html is the newest; each run's own page stays beside it, as <run>.html, and every page lists all runs that
    were evaluated before it.
    """
    from naics_pipeline.evaluation import summary
    from naics_pipeline.evaluation.explorer.page import write_explorer
    from naics_pipeline.evaluation.report import write_report
    from naics_pipeline.taxonomy.triplets import hardness_table

    tree = tree_of(descriptions)
    spaces = spaces_of(conf, store, tree)
    text, refined = metrics_together(store, spaces)
    refinement = refinement_of(store, refined["measured"])
    with tracking.start_run(context, conf.flat(), stage="report") as run:
        pictures = summary.draw(
            spaces,
            tree,
            dict(descriptions.select("code", "title").iter_rows()),
            stages=text["curves"],
            refinement=refinement["history"],
            hardness=hardness_table(store.local("triplets")),
        )
        content = report_content(context, conf, store, spaces, descriptions, refinement, pictures)
        own = f"reports/{context.run.run_id}.html"
        for name in (own, REPORT):
            write_report(store.path(name), content)
        for name, png in pictures.items():
            run.log_bytes(png, f"plots/{name}.png")
        write_explorer(store.path(EXPLORER), explored(conf, store, spaces, descriptions, tree))
        for name, logged in ((REPORT, "report.html"), (EXPLORER, "explorer.html")):
            run.log_bytes(store.path(name).read_bytes(), logged)
    for name in (own, REPORT, EXPLORER):
        store.publish(name)
    logger.info("report at %s", store.path(REPORT))
    return dg.MaterializeResult(
        metadata={**{name: picture(png) for name, png in pictures.items()}, **place(store, REPORT)},
        data_version=data_version(found_in(text), found_in(refined)),
    )


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


def metrics_together(store: Store, spaces: "Mapping[str, Embeddings]") -> tuple[dict[str, Any], dict[str, Any]]:
    """Text and refined metrics, both of the points at hand.

    Raises:
        ModelError: one of them was measured of other points.
    """
    from naics_pipeline.evaluation.metrics_files import read_metrics

    text, refined = (read_metrics(store.local(name)) for name in (TEXT_METRICS, REFINED_METRICS))
    for file, of, space in (
        (TEXT_METRICS, text["measured"]["text"], spaces["text"]),
        (REFINED_METRICS, last_of(refined["measured"]), last_of(spaces)),
    ):
        refuse_mixture(file, of.get("space"), "the embeddings", space.metadata.get("space"))
    return text, refined


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


def report_content(
    context: dg.AssetExecutionContext,
    conf: Config,
    store: Store,
    spaces: "Mapping[str, Embeddings]",
    descriptions: pl.DataFrame,
    refinement: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> "ReportContent":
    """What the page shows."""
    from naics_pipeline.evaluation.report import ReportContent
    from naics_pipeline.evaluation.runs.scores import runs_in

    text, refined = metrics_together(store, spaces)
    settings = last_of(refined["measured"])["origin"]["settings"]
    measured: dict[str, Any] = {"text": text["text"]}
    measured |= {name: refined[name] for name in ("smoothed", "refined") if name in refined}
    return ReportContent(
        source=settings["source"],
        vintage=settings["vintage"],
        codes=descriptions.height,
        queries_count=text["queries"],
        created=shown_now(),
        structure=measured | text["baselines"],
        ceiling=text["ceiling"],
        queries=measured | text["baselines"],
        stages={stage.name: stage_file(store, stage.name, "metrics.json") for stage in LINEAGE},
        left_out=refinement["metrics"],
        comparisons=refined["comparisons"],
        gate=refined["gate"],
        intervals={**text["intervals"], **refined["intervals"]},
        pictures=pictures,
        explorer=Path(EXPLORER).name,
        neighbours=neighbours(spaces.get("refined", spaces["text"]), descriptions),
        settings=settings | refined["evaluated"]["settings"] | text["evaluated"]["settings"],
        run=context.run.run_id,
        runs=runs_in(store),
    )


def explored(
    conf: Config, store: Store, spaces: "Mapping[str, Embeddings]", descriptions: pl.DataFrame, tree: "Tree"
) -> dict[str, Any]:
    """What the page to explore shows: refined points and those of the text model, in which held-out texts are read."""
    from naics_pipeline.evaluation.explorer.content import explorer_content
    from naics_pipeline.evaluation.explorer.texts import SearchedTexts, entries_among
    from naics_pipeline.evaluation.glossary import VARIANTS
    from naics_pipeline.text_model.embeddings import read_embeddings

    queries, places = (read_embeddings(store.local(name)) for name in (TEXT_QUERIES, PLACES))
    return explorer_content(
        {VARIANTS[name]: spaces[name] for name in ("refined", "text") if name in spaces},
        descriptions,
        tree,
        texts=SearchedTexts.of(spaces["text"], queries, places),
        examples=entries_among(places),
        about=f"NAICS {conf.settings.vintage} · source: {conf.settings.source} · {shown_now()}",
    )


def shown_now() -> str:
    """The time, as a page shows when it was made."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def stage_file(store: Store, stage: str, name: str) -> Any:
    """A small result that lies beside a stage's checkpoint."""
    from naics_pipeline.evaluation.metrics_files import read_metrics

    return read_metrics(store.local(f"stages/{stage}/{name}"))


def neighbours(space: "Embeddings", descriptions: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The codes nearest to a few six-digit codes, spread over the taxonomy."""
    from naics_pipeline.search.nearest import nearest

    detailed = descriptions.filter(level=6).select("code", "title")
    chosen = detailed.gather_every(max(1, detailed.height // EXAMPLES))[:EXAMPLES]
    return {
        f"{code} {title}": nearest(space, code, NEIGHBOURS)
        .join(descriptions, on="code", how="left", maintain_order="left")
        .select("code", "title", "distance")
        for code, title in chosen.iter_rows()
    }


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
