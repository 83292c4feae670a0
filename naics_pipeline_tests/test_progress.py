"""What the terminal is told of a run."""

import re

import dagster as dg
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.progress import progress


@dg.asset
def counted(context: dg.AssetExecutionContext) -> int:
    """Says how many."""
    context.log.info("397 rows")
    context.log.debug("a detail")
    return 397


@dg.asset
def broken(counted: int) -> int:
    """Says what is wrong."""
    raise NaicsError("workbook.xlsx, row 7: no code")


@dg.asset_check(asset=counted)
def enough() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False)


@pytest.fixture
def lines(capfd):
    """The lines of a run of these, without their times."""
    job = dg.define_asset_job("all", config={"loggers": {"progress": {}}})
    definitions = dg.Definitions(
        assets=[counted, broken], asset_checks=[enough], jobs=[job], loggers={"progress": progress}
    )
    definitions.resolve_job_def("all").execute_in_process(raise_on_error=False)
    printed = capfd.readouterr().err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in printed)
    return [" ".join(line.split()[1:]) for line in printed]


def test_a_line_per_step_message_check_and_failure(lines):
    assert "counted started" in lines
    assert "counted 397 rows" in lines
    assert any(re.fullmatch(r"counted done in \d+\.\d s", line) for line in lines)
    assert "counted_enough check enough: FAILED" in lines
    assert any(line.startswith("broken FAILED: ") and "workbook.xlsx, row 7: no code" in line for line in lines)


def test_nothing_else_is_said(lines):
    assert not any("a detail" in line or "RESOURCE_INIT" in line or "Traceback" in line for line in lines)
