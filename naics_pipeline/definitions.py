"""Everything Dagster knows of the project, wired here; nothing is computed."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from naics_pipeline import automation, checks
from naics_pipeline.assets import evaluation, graph_model, report, search, taxonomy, text_model, training_data
from naics_pipeline.assets.common import defined_conf
from naics_pipeline.assets.supplied import supplied_assets
from naics_pipeline.executor import careful_multiprocess_executor, kubernetes_executor
from naics_pipeline.failures import said_last
from naics_pipeline.progress import progress
from naics_pipeline.resources import Accelerator, ConfResource, ParquetFrames, StoreResource, Tracking

ASSET_MODULES = [taxonomy, training_data, text_model, graph_model, evaluation, report, search]


def default_resources() -> dict[str, Any]:
    """Resources by key; the settings can be given at launch, the others follow from them."""
    conf: Any = ConfResource.configure_at_launch()
    store: Any = StoreResource(conf=conf)
    return {
        "conf": conf,
        "store": store,
        "io_manager": ParquetFrames(store=store),
        "accelerator": Accelerator(conf=conf),
        "tracking": Tracking(conf=conf, store=store),
    }


def chosen_executor() -> dg.ExecutorDefinition:
    """Where steps run."""
    conf = defined_conf()
    with said_last():
        return {"multiprocess": lambda: careful_multiprocess_executor, "kubernetes": kubernetes_executor}[
            conf.settings.orchestration.executor
        ]()


def build_defs(overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions.

    Args:
        overrides: resources that replace the default ones, by key.
    """
    return dg.Definitions(
        assets=[*dg.load_assets_from_modules(ASSET_MODULES), *supplied_assets(defined_conf())],
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=[automation.full_pipeline, automation.retrain],
        schedules=[automation.retraining_schedule()],
        sensors=[automation.source_changed, automation.supplied_changed],
        executor=chosen_executor(),
        loggers={"progress": progress},
        resources={**default_resources(), **(overrides or {})},
    )


defs = build_defs()
