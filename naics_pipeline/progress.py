"""What a terminal shows of a run: a line per asset, per epoch, per check and per failure; no more."""

import logging
import sys

import dagster as dg

from naics_pipeline.failures import explanation

_WIDTH = 22


class ProgressFormatter(logging.Formatter):
    """Time, asset and message of a record that Dagster's log manager made."""

    def format(self, record: logging.LogRecord) -> str:
        meta = record.dagster_meta  # type: ignore[attr-defined]
        event = meta["dagster_event"]
        subject = meta["step_key"] or meta["job_name"] or ""
        text = describe(event) if event else meta["orig_message"]
        return f"{self.formatTime(record, '%H:%M:%S')}  {subject:<{_WIDTH}}  {text}"


def describe(event: dg.DagsterEvent) -> str | None:
    """The words for an event, None for one that says nothing to a reader."""
    kind, data = event.event_type, event.event_specific_data
    if kind == dg.DagsterEventType.STEP_START:
        return "started"
    if kind == dg.DagsterEventType.STEP_SUCCESS:
        return f"done in {data.duration_ms / 1000:.1f} s"  # type: ignore[union-attr]
    if kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return f"check {data.check_name}: {'passed' if data.passed else 'FAILED'}"  # type: ignore[union-attr]
    if kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        return f"FAILED: {explanation(data) or event.message}"
    if kind == dg.DagsterEventType.RUN_SUCCESS:
        return "finished"
    return None


@dg.logger(None, description="A line per asset, epoch, check and failure, for a terminal.")
def progress(_: dg.InitLoggerContext) -> logging.Logger:
    """Writes to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProgressFormatter())
    handler.addFilter(_worth_a_line)
    logger = logging.Logger("naics_pipeline.progress")
    logger.addHandler(handler)
    return logger


def _worth_a_line(record: logging.LogRecord) -> bool:
    event = record.dagster_meta["dagster_event"]  # type: ignore[attr-defined]
    return describe(event) is not None if event else record.levelno >= logging.INFO
