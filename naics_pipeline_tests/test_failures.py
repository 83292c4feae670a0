"""Our own message comes first: as a failure's description in the UI, and last on the terminal."""

import subprocess
import sys

import dagster as dg
import pytest

from naics_pipeline import definitions, failures
from naics_pipeline.assets.common import asset
from naics_pipeline.errors import SourceError
from naics_pipeline.resources import ConfResource


@asset()
def refused() -> None:
    """Says what is wrong, after an error below it."""
    try:
        int("x")
    except ValueError as error:
        raise SourceError("workbook.xlsx, row 7: no code") from error


@asset()
def broken() -> None:
    """Fails by an error nobody foresaw."""
    raise ZeroDivisionError("nobody foresaw this")


@asset()
def configured(conf: dg.ResourceParam) -> None:
    """Is never reached: its settings are impossible."""


def failure(of, **given):
    result = dg.materialize([of], raise_on_error=False, **given)
    failed = next(event for event in result.all_events if event.is_step_failure or event.is_job_failure)
    return failed.event_specific_data


def test_an_error_of_ours_is_the_description_of_the_failure():
    data = failure(refused)
    assert data.user_failure_data.description == "workbook.xlsx, row 7: no code"
    assert failures.explanation(data) == "workbook.xlsx, row 7: no code"


def test_another_error_keeps_its_own_words():
    data = failure(broken)
    assert data.user_failure_data is None
    assert failures.explanation(data) == "ZeroDivisionError: nobody foresaw this"


def test_impossible_settings_of_a_run_are_explained_in_our_words():
    data = failure(
        configured,
        resources={"conf": ConfResource.configure_at_launch()},
        run_config={"resources": {"conf": {"config": {"overrides": {"graph.steps": "many"}}}}},
    )
    assert failures.explanation(data).startswith("run config graph.steps: graph.steps = 'many' is not possible")


def test_every_asset_describes_its_failures():
    for made in dg.load_assets_from_modules(definitions.ASSET_MODULES):
        assert hasattr(made.op.compute_fn.decorated_fn, "__wrapped__"), made.key


@pytest.mark.parametrize("kind", ["SettingsError", "ValueError"])
def test_an_error_of_ours_stands_below_the_trace(kind):
    program = f"""
from naics_pipeline import failures
from naics_pipeline.errors import SettingsError
with failures.said_last():
    raise {kind}("graph.steps is not possible")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert (last == "graph.steps is not possible") == (kind == "SettingsError")
