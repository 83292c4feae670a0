"""The text model: one asset per stage of the curriculum, and the embeddings that the last one gives."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import (
    ACCELERATOR_POOL,
    asset,
    columns,
    data_version,
    defined_conf,
    logger,
    origin,
    picture,
    place,
    version,
    versions_of,
)
from naics_pipeline.assets.supplied import LABELLED_TEXTS
from naics_pipeline.config import Config
from naics_pipeline.errors import SettingsError
from naics_pipeline.failures import said_last
from naics_pipeline.files import fingerprint
from naics_pipeline.resources import Accelerator, TrackedRun, Tracking
from naics_pipeline.settings import Training
from naics_pipeline.storage import Store
from naics_pipeline.text_model.curriculum.stage import Stage, final_stage, lineage, load_curriculum
from naics_pipeline.text_model.version import WITHOUT_EFFECT, code_version

if TYPE_CHECKING:
    from naics_pipeline.text_model.embeddings import Embeddings

with said_last():
    STAGES = load_curriculum(Path(defined_conf().settings.curriculum))
    FINAL = final_stage(STAGES, defined_conf().settings.final_stage)
    LINEAGE = lineage(STAGES, FINAL)
NAME = "text_embeddings.parquet"
PLACES = "text_places.parquet"
QUERIES = "text_queries.parquet"
LABELLED = "text_labelled.parquet"
READ_BY_TRAINING = (
    *("seed", "taxonomy", "tokens", "model", "objective"),
    *(f"training.{name}" for name in Training.model_fields if name not in WITHOUT_EFFECT),
)
EMBEDDING_COLUMNS = columns(
    index=("u32", "number of the row"),
    level=("u8", "number of digits, 2 to 6"),
    code=("string", "NAICS code"),
    point=("array[f64]", "point of the hyperboloid, time coordinate first; curvature in the file's metadata"),
)


def described(stage: Stage) -> str:
    """What a stage learns from, in words."""
    if not stage.draws_pairs:
        return "Short texts alone"
    return f"Positives of levels {', '.join(map(str, stage.positive_levels))}, {stage.k_negatives} negatives each"


def stage_asset(stage: Stage) -> dg.AssetsDefinition:
    """The asset that trains one stage, from the checkpoint of the stage before."""

    @asset(
        name=f"stage_{stage.name}",
        description=(
            f"One checkpoint: the text model after stage {stage.name} of the curriculum.\n\n"
            f"{described(stage)}, {stage.epochs} epochs. A run that was killed goes on from its last finished epoch."
        ),
        group_name="text_model",
        kinds={"pytorch", "mlflow"},
        code_version=version(
            4,
            *READ_BY_TRAINING,
            "evaluation.cutoffs",
            also=fingerprint(code_version(), stage.model_dump(mode="json")),
        ),
        deps=["triplets", "token_cache", *([f"stage_{stage.after}"] if stage.after else [])],
        pool=ACCELERATOR_POOL,
    )
    def train(
        context: dg.AssetExecutionContext,
        conf: dg.ResourceParam[Config],
        store: dg.ResourceParam[Store],
        accelerator: Accelerator,
        tracking: Tracking,
        descriptions: pl.DataFrame,
        index_entries: pl.DataFrame,
        activity_phrases: pl.DataFrame,
    ) -> dg.MaterializeResult:
        from naics_pipeline.evaluation.metrics_files import write_metrics
        from naics_pipeline.evaluation.plots import training_curves
        from naics_pipeline.evaluation.structure import structure_metrics
        from naics_pipeline.evaluation.summary import FOLLOWED, measure
        from naics_pipeline.taxonomy.tree import Tree
        from naics_pipeline.text_model.checkpoints import read_stage
        from naics_pipeline.text_model.embeddings import write_embeddings
        from naics_pipeline.text_model.training.inputs import left_out_codes
        from naics_pipeline.text_model.training.loop import train_stage

        refuse_other_curriculum(conf)
        tree, cutoffs = Tree.from_codes(descriptions["code"].to_list()), conf.settings.evaluation.cutoffs
        left_out = left_out_codes(tree, conf.settings.training.left_out_fraction)
        name = f"stages/{stage.name}"
        params = conf.flat() | {f"stage.{key}": value for key, value in stage.model_dump().items()}
        store.resume_unfinished(name)
        with accelerator.claimed(context), tracking.start_run(context, params, stage=stage.name) as run:

            def follow(epoch: int, values: dict[str, float]) -> None:
                run.log_metrics(values, epoch)
                store.keep_unfinished(name)

            result = train_stage(
                stage,
                conf.settings,
                descriptions=descriptions,
                index_entries=index_entries,
                phrases=activity_phrases,
                token_cache=store.local("token_cache"),
                hidden_cache=store.path("hidden_states"),
                directory=store.path(name),
                start_from=store.local(f"stages/{stage.after}") if stage.after else None,
                metrics=partial(structure_metrics, tree=tree, cutoffs=cutoffs, left_out=left_out),
                on_epoch=follow,
            )
            queries = result.embedder.embed_rows(unseen_entries(descriptions, index_entries))
            metrics, intervals = measure(result.codes, queries, tree, cutoffs, places=result.places)
            metrics |= {key: value for key, value in result.metrics.items() if key.startswith("left_out_")}
            frames = {
                "descriptions": descriptions,
                "index_entries": index_entries,
                "activity_phrases": activity_phrases,
            }
            read = versions_of(frames)
            run.log_inputs(read, store.root)
            made = stage_origin(conf, store, stage, frames)
            for file, points in ((NAME, result.codes), (PLACES, result.places), (QUERIES, queries)):
                of_space = points.metadata | {"space": result.codes.version, "origin": json.dumps(made)}
                write_embeddings(replace(points, metadata=of_space), store.path(f"{name}/{file}"))
            model = log_checkpoint(run, store, stage)
            # A step after the last epoch's: what MLflow compares runs by is then the best checkpoint, not the last one.
            measured_on = ("index_entries", read["index_entries"])
            run.log_metrics(metrics, len(result.history), model_id=model, dataset=measured_on)
            write_metrics(store.path(f"{name}/metrics.json"), metrics)
            write_metrics(store.path(f"{name}/intervals.json"), intervals)
            write_metrics(store.path(f"{name}/history.json"), {"epochs": result.history})
            curves = training_curves({stage.name: result.history}, FOLLOWED)
            run.log_bytes(curves, "plots/training_curves.png")
        store.publish(name)
        store.forget_unfinished(name)
        return dg.MaterializeResult(
            metadata={"training_curves": picture(curves), **place(store, name), **metrics},
            data_version=dg.DataVersion(read_stage(store.path(name))["key"]),
        )

    return train


def log_checkpoint(run: TrackedRun, store: Store, stage: Stage) -> str | None:
    """The best checkpoint of a stage as a LoggedModel whose files lie in the stage's directory; its id."""
    from naics_pipeline.text_model.checkpoints import BEST, read_stage

    name = f"stages/{stage.name}"
    place = f"{store.root}/{name}/{BEST}"
    loaded_by = f"naics_pipeline.text_model.inference.TextEmbedder.load(Path({place!r}))"
    params = {"key": read_stage(store.path(name))["key"], **stage.model_dump(mode="json")}
    return run.log_stored_model(f"stage_{stage.name}", place, loaded_by, params)


def stage_origin(conf: Config, store: Store, stage: Stage, frames: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Where a stage's points come from: its settings and those of the stages before it."""
    from naics_pipeline.text_model.embeddings import read_metadata

    made = origin(conf, frames, "source", "vintage", *READ_BY_TRAINING)
    if stage.after:
        before = read_metadata(store.local(f"stages/{stage.after}") / NAME)
        made["settings"] |= {
            key: value
            for key, value in json.loads(before.get("origin", "{}")).get("settings", {}).items()
            if key.startswith("curriculum.")
        }
    own = stage.model_dump(mode="json", exclude={"name"})
    made["settings"] |= {f"curriculum.{stage.name}.{key}": value for key, value in own.items()}
    return made


stages = [stage_asset(stage) for stage in STAGES]


@asset(
    group_name="text_model",
    kinds={"pytorch", "parquet"},
    code_version=version(3, "evaluation.labelled"),
    supplied=LABELLED_TEXTS,
    deps=[f"stage_{FINAL.name}", "triplets"],
    metadata=EMBEDDING_COLUMNS,
)
def text_embeddings(
    context: dg.AssetExecutionContext, conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]
) -> dg.MaterializeResult:
    """One row per code: its point, from its texts and the offset it learned, by the last stage of the curriculum.

    Beside it text_places.parquet, the titles, entries and sentences below the codes; text_queries.parquet, the index
    entries that no training saw, to be searched among them; and text_labelled.parquet where evaluation.labelled is set.
    """
    from naics_pipeline.text_model.checkpoints import BEST
    from naics_pipeline.text_model.embeddings import read_embeddings, write_embeddings

    last = f"stages/{FINAL.name}"
    found = {name: read_embeddings(store.local(f"{last}/{name}")) for name in (NAME, PLACES, QUERIES)}
    if conf.settings.evaluation.labelled:
        found[LABELLED] = labelled_texts(conf, store.local(last) / BEST)
    else:
        store.remove(LABELLED)
    space = found[NAME].metadata | {"space": found[NAME].version, "run_id": context.run.run_id}
    for name, points in found.items():
        of_this_run = replace(points, metadata=points.metadata | space)
        write_embeddings(of_this_run, store.path(name))
        store.publish(name)
    embeddings = found[NAME]
    logger.info("%s points of %d coordinates", f"{len(embeddings.codes):,}", embeddings.points.shape[1])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(embeddings.codes),
            "curvature": embeddings.curvature,
            "geometry": embeddings.geometry,
            **{name.removesuffix(".parquet"): len(points.codes) for name, points in found.items()},
            **place(store, NAME),
        },
        data_version=data_version(embeddings.curvature, *(points.points.tobytes() for points in found.values())),
    )


def labelled_texts(conf: Config, checkpoint: Path) -> "Embeddings":
    """Points of the texts of evaluation.labelled and of their parts, read by a checkpoint."""
    from naics_pipeline.evaluation.labelled import read_labelled
    from naics_pipeline.text_model.inference import TextEmbedder

    texts = read_labelled(Path(str(conf.settings.evaluation.labelled)))
    first = texts.with_columns(code=pl.col("codes").list.first().fill_null(""))
    return TextEmbedder.load(checkpoint, conf.settings.accelerator).embed_rows(first)


def unseen_entries(descriptions: pl.DataFrame, index_entries: pl.DataFrame) -> pl.DataFrame:
    """The index entries that no training saw: code, text, split, and whether Census itself repeats them in a text."""
    from naics_pipeline.taxonomy.text import TRAIN, repeated_entries

    marked = index_entries.with_columns(repeated=repeated_entries(descriptions, index_entries))
    return marked.filter(pl.col("split") != TRAIN).rename({"entry": "text"})


def refuse_other_curriculum(conf: Config) -> None:
    """Run config cannot change which stages there are: they are assets, made when the definitions load."""
    for key in ("curriculum", "final_stage"):
        made_from, asked = (getattr(settings, key) for settings in (defined_conf().settings, conf.settings))
        if asked != made_from:
            raise SettingsError(
                f"{conf.origins[key]}: {key} = {asked} differs from {made_from}, which the assets are made from. Set "
                f"NAICS__{key.upper()}, or the profile, before Dagster loads the definitions."
            )
