"""When things are made: jobs, the schedule that retrains, the sensor that watches the source. No computation."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph, BaseAssetNode

from naics_pipeline.assets.common import CODE_VERSION_TAG, INPUT_VERSION_TAG, defined_conf
from naics_pipeline.assets.supplied import DATA_VERSION_TAG, noted, noted_last
from naics_pipeline.assets.taxonomy import SOURCE_CHECKSUMS, source_cache
from naics_pipeline.config import SUPPLIED, Config
from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store
from naics_pipeline.taxonomy import census

ENDS = ("descriptions", "evaluation_report")
NOT_OVER = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
PROGRESS: dict[str, Any] = {"loggers": {"progress": {}}}

full_pipeline = dg.define_asset_job(
    "full_pipeline",
    dg.AssetSelection.all(),
    config=PROGRESS,
    description="Everything, from the source to the report.",
)

retrain = dg.define_asset_job(
    "retrain",
    dg.AssetSelection.from_string('key:"triplets"+'),
    config=PROGRESS,
    description="Training, refinement and evaluation, from the taxonomy as it was last read.",
)


def retraining_schedule() -> dg.ScheduleDefinition:
    """Retrains once a month if that can give another model; stopped until it is switched on.

    Raises:
        SettingsError: orchestration.retraining_schedule is no cron expression.
    """
    key = "orchestration.retraining_schedule"
    conf = defined_conf()
    cron = conf.settings.orchestration.retraining_schedule
    try:
        return dg.ScheduleDefinition(
            name="monthly_retraining",
            job=full_pipeline,
            cron_schedule=cron,
            execution_timezone="UTC",
            execution_fn=retrain_if_outdated,
            description="Asks for a run of what other texts, settings, code or files of users have made outdated.",
        )
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(f"{conf.origins[key]}: {key} = {cron!r} is not possible: no cron expression.") from error


def retrain_if_outdated(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A request that names what has changed; the same seed on the same inputs would give the same model again.

    Raises:
        SettingsError: a file of users that the settings name cannot be read.
    """
    assert context.repository_def is not None
    graph = context.repository_def.asset_graph
    for name in SUPPLIED:
        noted(context.instance, defined_conf(), name)
    changed = outdated(context.instance, graph)
    if changed:
        selected = dg.AssetSelection.assets(*changed).downstream().resolve(graph)
        reasons = [reason for found in changed.values() for reason in found]
        return dg.RunRequest(asset_selection=sorted(selected), tags={"retrained_for": "; ".join(reasons)})
    return dg.SkipReason(
        "Texts, settings, code and files of users are those of the last training, so that the same seed would give "
        "the same model. Set another seed, or launch the job `retrain` by hand, to train all the same."
    )


def outdated(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> dict[dg.AssetKey, list[str]]:
    """What was never made, or made by other code or settings, or from other inputs than there are now; and why."""
    made = graph.materializable_asset_keys
    versions = {
        key: latest_tags(instance, key).get(DATA_VERSION_TAG) if key in made else noted_last(instance, key)
        for key in graph.get_all_asset_keys()
    }
    found = {}
    for key in graph.toposorted_asset_keys:
        if key in made and (reasons := _reasons(latest_tags(instance, key), graph.get(key), versions)):
            found[key] = reasons
    return found


def _reasons(made: Mapping[str, str], node: BaseAssetNode, versions: Mapping[dg.AssetKey, str | None]) -> list[str]:
    """Why an asset is outdated, by the tags of its latest materialization; nothing where it is not."""
    name = node.key.to_user_string()
    if not made:
        return [f"{name} was never made"]
    if made.get(CODE_VERSION_TAG) != node.code_version:
        return [f"{name}: other code or settings"]
    read = {key: made.get(f"{INPUT_VERSION_TAG}/{key.to_user_string()}") for key in sorted(node.parent_keys)}
    return [f"{name}: another {key.to_user_string()}" for key, version in read.items() if version != versions[key]]


def latest_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, str]:
    """What the latest materialization says of its version, code and inputs; nothing where there is none."""
    event = instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    return (materialization.tags or {}) if materialization else {}


@dg.sensor(
    job=full_pipeline,
    minimum_interval_seconds=defined_conf().settings.orchestration.source_check_seconds,
    description="Asks for a run of everything while the source's files are not those that the report was made from.",
)
def source_changed(
    context: dg.SensorEvaluationContext, conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]
) -> dg.RunRequest | dg.SkipReason:
    """Asks for a run of everything while the source's files are not those that the report was made from.

    So a run that failed is asked for again at the next look, and where nothing was built one is asked for at the first.
    Stopped until it is switched on.
    """
    settings = conf.settings
    found = census.source_checksums(settings.source, settings.vintage, settings.download, source_cache(store))
    under_way = context.instance.get_runs(dg.RunsFilter(job_name=full_pipeline.name, statuses=NOT_OVER), limit=1)
    if under_way:
        return dg.SkipReason(f"Run {under_way[0].run_id} of {full_pipeline.name} is not over yet.")
    known = reported_checksums(context.instance)
    if found == known:
        return dg.SkipReason(f"The report was made from the {len(found)} files of {settings.source} as they are.")
    changed = sorted(name for name in found.keys() | known.keys() if found.get(name) != known.get(name))
    return dg.RunRequest(tags={"source_changed": ", ".join(changed)})


@dg.sensor(
    minimum_interval_seconds=defined_conf().settings.orchestration.source_check_seconds,
    description="Looks what files of users hold, so that what was made from other content is shown as stale.",
)
def supplied_changed(context: dg.SensorEvaluationContext, conf: dg.ResourceParam[Config]) -> dg.SkipReason:
    """Looks what files of users hold, so that what was made from other content is shown as stale; asks for no run.

    Stopped until it is switched on.

    Raises:
        SettingsError: a file that the settings name cannot be read.
    """
    before = {name: noted_last(context.instance, dg.AssetKey(name)) for name in SUPPLIED}
    now = {name: noted(context.instance, conf, name) for name in SUPPLIED}
    there = [name for name, content in now.items() if content is not None]
    changed = [name for name in there if now[name] != before[name]]
    if changed:
        return dg.SkipReason(f"Other content in {', '.join(changed)}: what reads it is stale until it is made again.")
    return dg.SkipReason(f"{', '.join(there)} as before." if there else "The settings name no file of users.")


def reported_checksums(instance: dg.DagsterInstance) -> dict[str, str]:
    """File name → checksum of the source that the whole pipeline, up to the report, was last made from."""
    described, reported = (instance.get_latest_materialization_event(dg.AssetKey(name)) for name in ENDS)
    if described is None or reported is None or reported.timestamp < described.timestamp:
        return {}
    assert described.asset_materialization is not None
    recorded = described.asset_materialization.metadata.get(SOURCE_CHECKSUMS)
    return dict(recorded.value) if isinstance(recorded, dg.JsonMetadataValue) else {}  # type: ignore[arg-type]
