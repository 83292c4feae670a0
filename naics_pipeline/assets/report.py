"""The pages on what was measured: the report, which lists all runs, and the disk to explore; each run keeps its own."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import MONTHLY, asset, data_version, logger, picture, place, version
from naics_pipeline.assets.evaluation import (
    REFINED_METRICS,
    TEXT_METRICS,
    found_in,
    last_of,
    refinement_of,
    refuse_mixture,
    spaces_of,
    stage_file,
    tree_of,
)
from naics_pipeline.assets.text_model import LINEAGE, PLACES
from naics_pipeline.assets.text_model import QUERIES as TEXT_QUERIES
from naics_pipeline.config import Config
from naics_pipeline.resources import Tracking
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.evaluation.explorer.texts import SearchedTexts
    from naics_pipeline.evaluation.report import ReportContent
    from naics_pipeline.taxonomy.tree import Tree
    from naics_pipeline.text_model.embeddings import Embeddings

FOLDER = "reports"
REPORT = f"{FOLDER}/index.html"
EXPLORER = f"{FOLDER}/explorer.html"
EXAMPLES, NEIGHBOURS = 3, 8


@asset(
    group_name="evaluation",
    kinds={"html", "mlflow"},
    freshness_policy=MONTHLY,
    code_version=version(6, "source", "vintage", "graph.smoothing_rounds"),
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

    index.html and explorer.html are the newest; those of each evaluated run stay beside them, as <run>.html and
    <run>.explorer.html, and every page lists the runs that were evaluated before it.
    """
    from naics_pipeline.evaluation import summary
    from naics_pipeline.evaluation.explorer.page import write_explorer
    from naics_pipeline.evaluation.report import write_report
    from naics_pipeline.taxonomy.triplets import hardness_table

    tree = tree_of(descriptions)
    spaces = spaces_of(conf, store, tree)
    text, refined = metrics_together(store, spaces)
    refinement = refinement_of(store, refined["measured"])
    texts = searched(store, spaces["text"])
    titles = dict(descriptions.select("code", "title").iter_rows())
    with tracking.start_run(context, conf.flat(), stage="report") as run:
        pictures = summary.draw(
            spaces,
            tree,
            titles,
            stages=text["curves"],
            refinement=refinement["history"],
            hardness=hardness_table(store.local("triplets")),
            texts=texts,
        )
        content = report_content(store, spaces, descriptions, refinement, pictures)
        page = explored(conf, store, spaces, descriptions, tree, texts)
        own = {name: f"{FOLDER}/{content.run}.{name}" for name in ("html", "explorer.html")}
        for report, explorer in ((own["html"], own["explorer.html"]), (REPORT, EXPLORER)):
            write_explorer(store.path(explorer), page)
            write_report(store.path(report), replace(content, explorer=Path(explorer).name))
        for name, png in pictures.items():
            run.log_bytes(png, f"plots/{name}.png")
        for name, logged in ((REPORT, "report.html"), (EXPLORER, "explorer.html")):
            run.log_bytes(store.path(name).read_bytes(), logged)
    for name in (*own.values(), REPORT, EXPLORER):
        store.publish(name)
    logger.info("report at %s", store.path(REPORT))
    return dg.MaterializeResult(
        metadata={**{name: picture(png) for name, png in pictures.items()}, **place(store, REPORT)},
        data_version=data_version(found_in(text), found_in(refined)),
    )


def searched(store: Store, space: "Embeddings") -> "SearchedTexts":
    """The held-out texts, each with the probability of every six-digit code."""
    from naics_pipeline.evaluation.explorer.texts import SearchedTexts
    from naics_pipeline.text_model.embeddings import read_embeddings

    queries, places = (read_embeddings(store.local(name)) for name in (TEXT_QUERIES, PLACES))
    return SearchedTexts.of(space, queries, places)


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


def report_content(
    store: Store,
    spaces: "Mapping[str, Embeddings]",
    descriptions: pl.DataFrame,
    refinement: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> "ReportContent":
    """What the page shows; it is the page of the run that was evaluated last, whichever run writes it."""
    from naics_pipeline.evaluation.report import ReportContent
    from naics_pipeline.evaluation.runs.scores import runs_in

    text, refined = metrics_together(store, spaces)
    settings = last_of(refined["measured"])["origin"]["settings"]
    measured: dict[str, Any] = {"text": text["text"]}
    measured |= {name: refined[name] for name in ("smoothed", "refined") if name in refined}
    last = max((text["evaluated"], refined["evaluated"]), key=lambda evaluated: str(evaluated["created"]))
    known = runs_in(store)
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
        left_out_intervals=refinement.get("intervals", {}),
        comparisons=refined["comparisons"],
        gate=refined["gate"],
        intervals={**text["intervals"], **refined["intervals"], **stage_intervals(store)},
        pictures=pictures,
        neighbours=neighbours(spaces.get("refined", spaces["text"]), descriptions),
        settings=settings | refined["evaluated"]["settings"] | text["evaluated"]["settings"],
        run=last["run_id"],
        runs=known,
        pages={run.name for run in known if store.exists(f"{FOLDER}/{run.name}.html")},
    )


def stage_intervals(store: Store) -> dict[str, Any]:
    """Stage → metric → bounds; a stage of an earlier version has left none."""
    names = [stage.name for stage in LINEAGE if store.exists(f"stages/{stage.name}/intervals.json")]
    return {name: stage_file(store, name, "intervals.json") for name in names}


def explored(
    conf: Config,
    store: Store,
    spaces: "Mapping[str, Embeddings]",
    descriptions: pl.DataFrame,
    tree: "Tree",
    texts: "SearchedTexts",
) -> dict[str, Any]:
    """What the page to explore shows: refined points and those of the text model, in which held-out texts are read."""
    from naics_pipeline.evaluation.explorer.content import explorer_content
    from naics_pipeline.evaluation.explorer.texts import entries_among
    from naics_pipeline.evaluation.glossary import VARIANTS
    from naics_pipeline.text_model.embeddings import read_embeddings

    return explorer_content(
        {VARIANTS[name]: spaces[name] for name in ("refined", "text") if name in spaces},
        descriptions,
        tree,
        texts=texts,
        examples=entries_among(read_embeddings(store.local(PLACES))),
        about=f"NAICS {conf.settings.vintage} · source: {conf.settings.source} · {shown_now()}",
    )


def shown_now() -> str:
    """The time, as a page shows when it was made."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


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
