"""Runs side by side as one page that needs nothing beside itself."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from naics_pipeline.evaluation.glossary import VARIANTS, by_name
from naics_pipeline.evaluation.page import templates
from naics_pipeline.evaluation.plots import training_curves
from naics_pipeline.evaluation.report import shown, still_page
from naics_pipeline.evaluation.runs.comparison import Difference, RunComparison
from naics_pipeline.evaluation.runs.scores import RunRecord
from naics_pipeline.evaluation.runs.seeds import HEADLINE
from naics_pipeline.evaluation.summary import FOLLOWED
from naics_pipeline.files import replacing

_ROOM = Path(__file__).parent
GRAPH = "graph"
"""What the curves of the refinement are called."""


def write_comparison(
    path: Path, comparisons: Sequence[RunComparison], titles: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes the page; a reader sees the old one or the new one, never a part.

    Args:
        comparisons: of other runs with one and the same first.
        titles: code → title, to stand beside codes.
    """
    page = render(comparisons, titles)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(comparisons: Sequence[RunComparison], titles: Mapping[str, str] = MappingProxyType({})) -> str:
    """The page as text."""
    every = [comparisons[0].first, *(comparison.second for comparison in comparisons)]
    drawn = {
        "Epochs of all stages of the text model, one after the other": training_curves(
            {short_name(run): _text_epochs(run) for run in every}, FOLLOWED, overlaid=True
        )
    }
    if any(GRAPH in run.curves for run in every):
        of_graph = {short_name(run): run.curves.get(GRAPH, []) for run in every}
        names = dict.fromkeys(name for epochs in of_graph.values() for epoch in epochs for name in epoch)
        shown_names = [name for name in names if not name.startswith(("epoch", "weight_", "learning_rate"))]
        drawn["Epochs of the refinement"] = training_curves(of_graph, shown_names, overlaid=True)
    template = templates(_ROOM).get_template("comparison.html")
    return template.render(
        parts=still_page(),
        first=_heading(every[0]),
        sections=[_section(comparison, titles) for comparison in comparisons],
        curves={name: base64.b64encode(png).decode() for name, png in drawn.items()},
    )


def short_name(run: RunRecord) -> str:
    """As much of its name as one reads."""
    return run.name[:12]


def _text_epochs(run: RunRecord) -> list[dict[str, float]]:
    return [epoch for stage, epochs in run.curves.items() if stage != GRAPH for epoch in epochs]


def _heading(run: RunRecord) -> dict[str, str]:
    return {"name": short_name(run), "full": run.name, "created": run.created[:16].replace("T", " ")}


def _section(comparison: RunComparison, titles: Mapping[str, str]) -> dict[str, Any]:
    by_space: dict[str, list[dict[str, Any]]] = {}
    for row in comparison.differences:
        by_space.setdefault(VARIANTS.get(row.space, row.space), []).append(_row(row))
    verdicts = [row.verdict for row in comparison.differences]
    main = [row for row in comparison.differences if (row.space, row.metric) in HEADLINE]
    differing = [row for row in comparison.differences if row.verdict in ("better", "worse")]
    return {
        "second": _heading(comparison.second),
        "main": [_row(row) for row in main],
        "differing": [_row(row) for row in differing],
        "counts": {word: verdicts.count(word) for word in ("better", "worse", "no difference")},
        "spaces": by_space,
        "settings": comparison.settings,
        "data": comparison.data,
        "changed": [
            (
                f"{VARIANTS.get(space, space)}: {by_name(metric).label}",
                [row | {"title": titles.get(row["key"], "")} for row in rows.rows(named=True)],
            )
            for (space, metric), rows in comparison.changed.items()
        ],
    }


def _row(row: Difference) -> dict[str, Any]:
    metric, found = by_name(row.metric), row.comparison
    interval = "" if found is None or not found.n else f"{shown(found.low, 4)} to {shown(found.high, 4)}"
    return {
        "space": VARIANTS.get(row.space, row.space),
        "metric": row.metric,
        "label": metric.label,
        "reading": metric.reading,
        "first": shown(row.first, metric.digits),
        "second": shown(row.second, metric.digits),
        "change": shown(row.change, 4),
        "interval": interval,
        "n": "" if found is None else f"{found.n:,}",
        "verdict": row.verdict,
    }
