"""Materializes assets in this process, for tests."""

from pathlib import Path
from typing import Any

import dagster as dg

from naics_pipeline import checks, definitions


def materialize(selection: str, data_dir: Path, **overrides: Any) -> dg.ExecuteInProcessResult:
    """Runs the assets of a selection with their checks; the result says whether it succeeded.

    Args:
        selection: in Dagster's syntax.
        overrides: settings by dotted key, with __ for the dot.
    """
    settings = {key.replace("__", "."): value for key, value in overrides.items()} | {"data_dir": str(data_dir)}
    assets = dg.load_assets_from_modules(definitions.ASSET_MODULES)
    return dg.materialize(
        [*assets, *dg.load_asset_checks_from_modules([checks])],
        selection=dg.AssetSelection.from_string(selection),
        resources=definitions.default_resources(),
        run_config={"resources": {"conf": {"config": {"profile": "sample", "overrides": settings}}}},
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """Metadata values of an asset that was materialized."""
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def data_version(result: dg.ExecuteInProcessResult, asset: str) -> str:
    (event,) = result.asset_materializations_for_node(asset)
    assert event.tags
    return event.tags["dagster/data_version"]


def code_version(result: dg.ExecuteInProcessResult, asset: str) -> str:
    (event,) = result.asset_materializations_for_node(asset)
    assert event.tags
    return event.tags["dagster/code_version"]


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the first failed step said, with all causes."""
    error = next(event for event in result.all_events if event.is_step_failure).step_failure_data.error
    return error.to_string()
