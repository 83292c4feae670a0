"""Runs side by side as one page that needs nothing beside itself."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from naics_pipeline.evaluation.glossary import VARIANTS, by_name
from naics_pipeline.evaluation.plots import training_curves
from naics_pipeline.evaluation.report import shown
from naics_pipeline.evaluation.runs.comparison import Difference, RunComparison
from naics_pipeline.evaluation.runs.scores import RunRecord
from naics_pipeline.evaluation.summary import FOLLOWED
from naics_pipeline.files import replacing

_ROOM = Path(__file__).parent


def write_comparison(path: Path, comparisons: Sequence[RunComparison]) -> None:
    """Writes the page; a reader sees the old one or the new one, never a part.

    Args:
        comparisons: of other runs with one and the same first.
    """
    page = render(comparisons)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(comparisons: Sequence[RunComparison]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader([_ROOM, _ROOM.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    every = [comparisons[0].first, *(comparison.second for comparison in comparisons)]
    curves = training_curves({short_name(run): _epochs(run) for run in every}, FOLLOWED, overlaid=True)
    return environment.get_template("comparison.html").render(
        first=_heading(every[0]),
        sections=[_section(comparison) for comparison in comparisons],
        curves=base64.b64encode(curves).decode(),
    )


def short_name(run: RunRecord) -> str:
    """As much of its name as one reads."""
    return run.name[:12]


def _epochs(run: RunRecord) -> list[dict[str, float]]:
    return [epoch for stage, epochs in run.curves.items() if stage != "graph" for epoch in epochs]


def _heading(run: RunRecord) -> dict[str, str]:
    return {"name": short_name(run), "full": run.name, "created": run.created[:16].replace("T", " ")}


def _section(comparison: RunComparison) -> dict[str, Any]:
    by_space: dict[str, list[dict[str, Any]]] = {}
    for row in comparison.differences:
        by_space.setdefault(VARIANTS.get(row.space, row.space), []).append(_row(row))
    verdicts = [row.verdict for row in comparison.differences]
    return {
        "second": _heading(comparison.second),
        "counts": {word: verdicts.count(word) for word in ("better", "worse", "no difference")},
        "spaces": by_space,
        "settings": comparison.settings,
        "data": comparison.data,
        "changed": [
            (f"{VARIANTS.get(space, space)}: {by_name(metric).label}", rows.rows(named=True))
            for (space, metric), rows in comparison.changed.items()
        ],
    }


def _row(row: Difference) -> dict[str, Any]:
    metric, found = by_name(row.metric), row.comparison
    interval = "" if found is None or not found.n else f"{shown(found.low, 4)} to {shown(found.high, 4)}"
    return {
        "metric": row.metric,
        "reading": metric.reading,
        "first": shown(row.first, metric.digits),
        "second": shown(row.second, metric.digits),
        "change": shown(row.change, 4),
        "interval": interval,
        "n": "" if found is None else f"{found.n:,}",
        "verdict": row.verdict,
    }
