"""What users search with: the index of the newest text model, the same as a model of MLflow, and a file it codes."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import asset, data_version, defined_conf, logger, place, version, versions_of
from naics_pipeline.assets.evaluation import frozen_vectors
from naics_pipeline.assets.supplied import FILE_TO_CLASSIFY
from naics_pipeline.assets.text_model import FINAL, NAME, PLACES, QUERIES
from naics_pipeline.config import Config
from naics_pipeline.resources import Tracking
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

INDEX = "naics_index"
CLASSIFIED = "classified.parquet"
BLOCKS_BETWEEN_MESSAGES = 40


@asset(
    group_name="search",
    kinds={"pytorch", "scikitlearn", "parquet"},
    code_version=version(8, "seed", "vintage", "model.base", "model.base_sha256"),
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


@asset(
    group_name="search",
    kinds={"mlflow"},
    code_version=version(1, "seed", "registry"),
    deps=[INDEX, "triplets"],
)
def naics_model(
    context: dg.AssetExecutionContext,
    conf: dg.ResourceParam[Config],
    store: dg.ResourceParam[Store],
    tracking: Tracking,
    index_entries: pl.DataFrame,
) -> dg.MaterializeResult:
    """One version in MLflow's registry: the index as a model that MLflow can serve, measured on held-out entries.

    The alias champion moves to it unless it finds them worse than the champion. An index that is there is not
    registered again.
    """
    from naics_pipeline.registry import Registry
    from naics_pipeline.search.champion import measure_index
    from naics_pipeline.search.index import Index
    from naics_pipeline.taxonomy.text import HELD_OUT

    place_of_index = store.local(INDEX)
    # Versions are compared with one another, wherever each was measured.
    index = Index.load(place_of_index, accelerator=conf.settings.accelerator, precision="float32")
    name = conf.settings.registry.model_name
    with tracking.start_run(context, conf.flat(), stage="naics_model") as run:
        read = versions_of({"index_entries": index_entries})
        run.log_inputs(read, store.root)
        measured = measure_index(index, index_entries.filter(split=HELD_OUT))
        registry = Registry(run, name)
        registered = registry.register(place_of_index, index.manifest, measured.scores)
        (dataset,) = read.items()
        run.log_metrics(measured.metrics, model_id=registered.model_id, dataset=dataset)
        decision = registry.crown(registered, measured.scores, seed=conf.settings.seed)
    say = logger.info if decision.moves or not registered.is_new else logger.warning
    moved = "champion moves" if decision.moves else "champion stays"
    say("version %s of %s, index %s; %s: %s", registered.version, name, index.version, moved, decision.reason)
    found = vars(decision.comparison) if decision.comparison else {}
    return dg.MaterializeResult(
        metadata={
            "model": dg.MetadataValue.text(f"models:/{name}/{registered.version}"),
            "index_version": index.version,
            "champion": f"{moved}: {decision.reason}",
            **{f"against_champion/{key}": value for key, value in found.items()},
            **measured.metrics,
        },
        data_version=data_version(name, index.version),
    )


def classified_assets(conf: Config) -> list[dg.AssetsDefinition]:
    """The asset that codes the file or directory which the settings name; none where they name none."""
    if conf.settings.classification.file is None:
        return []

    @asset(
        group_name="search",
        kinds={"parquet"},
        code_version=version(2, *(f"classification.{key}" for key in ("file", "text", "top", "threshold")), "search"),
        supplied=FILE_TO_CLASSIFY,
        deps=[INDEX],
    )
    def classified(conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
        """One row for each of a file, with its columns, codes and probabilities; of a directory, a file for each.

        An interrupted run goes on.
        """
        is_directory = Path(conf.settings.classification.file or "").is_dir()
        return (_classified_directory if is_directory else _classified_file)(conf, store)

    return [classified]


def _classified_file(conf: Config, store: Store) -> dg.MaterializeResult:
    from naics_pipeline.search.classify import ROWS, Coded, Coding, Task, classify_file
    from naics_pipeline.search.index import Index

    settings, chosen = conf.settings, conf.settings.classification
    assert chosen.file is not None
    index = Index.load(store.local(INDEX), accelerator=settings.accelerator, precision=settings.search.precision)
    task = Task(Path(chosen.file), store.path(CLASSIFIED), Coding(chosen.text, chosen.top, chosen.threshold))

    def say(done: Coded) -> None:
        logger.info("%s rows, %s without a usable text", f"{done.rows:,}", f"{done.bad:,}")

    def now_and_then(done: Coded) -> None:
        if done.rows % (BLOCKS_BETWEEN_MESSAGES * ROWS) == 0:
            say(done)

    done = classify_file(index, task, now_and_then)
    say(done)
    for written in (task.out, task.bad_rows):
        store.publish(written.name)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.rows,
            "rows_without_text": done.bad,
            "rows_done_earlier": done.resumed,
            "index_version": index.version,
            **place(store, CLASSIFIED),
        },
        data_version=data_version(index.version, task.out),
    )


def _classified_directory(conf: Config, store: Store) -> dg.MaterializeResult:
    from naics_pipeline.search.batch import MANIFEST, Done, Job, find_shards, run_batch
    from naics_pipeline.search.classify import Coding
    from naics_pipeline.search.processes import engine_of

    chosen, name = conf.settings.classification, Path(CLASSIFIED).stem
    coding = Coding(chosen.text, chosen.top, chosen.threshold)
    accelerator, precision = conf.settings.accelerator, conf.settings.search.precision
    job = Job.of(store.local(INDEX), store.path(name), coding, accelerator, precision=precision)

    def say(done: Done) -> None:
        logger.info("%d of %d files, %s rows", len(done.records), done.shards, f"{done.rows:,}")

    assert chosen.file is not None
    done = run_batch(job, find_shards([Path(chosen.file)], job.out), engine_of(chosen.workers), say)
    store.publish(name)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.rows,
            "rows_without_text": done.bad_rows,
            "files": done.shards,
            "files_done_earlier": done.earlier,
            "index_version": job.index_version,
            **place(store, name),
        },
        data_version=data_version(job.out / MANIFEST),
    )


CLASSIFIED_ASSETS = classified_assets(defined_conf())
