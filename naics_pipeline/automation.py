"""When things are made: jobs, the schedule that retrains, the sensor that watches the source. No computation."""

import json
from typing import Any

import dagster as dg

from naics_pipeline.assets.common import defined_conf
from naics_pipeline.assets.taxonomy import source_cache
from naics_pipeline.config import Config
from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store
from naics_pipeline.taxonomy import census

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
    """Retrains once a month; stopped until it is switched on.

    Raises:
        SettingsError: orchestration.retraining_schedule is no cron expression.
    """
    key = "orchestration.retraining_schedule"
    conf = defined_conf()
    cron = conf.settings.orchestration.retraining_schedule
    try:
        return dg.ScheduleDefinition(
            name="monthly_retraining", job=retrain, cron_schedule=cron, execution_timezone="UTC"
        )
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(f"{conf.origins[key]}: {key} = {cron!r} is not possible: no cron expression.") from error


@dg.sensor(job=full_pipeline, minimum_interval_seconds=defined_conf().settings.orchestration.source_check_seconds)
def source_changed(
    context: dg.SensorEvaluationContext, conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]
) -> dg.SensorResult | dg.SkipReason:
    """Asks for a run of everything when the checksums of the source's files change; stopped until it is switched on."""
    settings = conf.settings
    found = census.source_checksums(settings.source, settings.vintage, settings.download, source_cache(store))
    known = json.loads(context.cursor) if context.cursor else None
    changed = sorted(name for name in found.keys() | (known or {}).keys() if found.get(name) != (known or {}).get(name))
    if known is not None and not changed:
        return dg.SkipReason(f"The {len(found)} files of {settings.source} are as they were.")
    context.update_cursor(json.dumps(found, sort_keys=True))
    if known is None:
        return dg.SkipReason(f"Watching the {len(found)} files of {settings.source} from now on.")
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={"source_changed": ", ".join(changed)})])
