"""The report: one HTML page that needs nothing beside itself, and the JSON files of metrics it is made from."""

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from naics_pipeline.evaluation.glossary import (
    BY_NAME,
    CALIBRATION,
    LABELLED,
    MAIN_STRUCTURE,
    MORE_STRUCTURE,
    QUERIES,
    READOUTS,
    SHARES,
    STAGE_TEXTS,
    TASKS,
    UNREPEATED,
    VARIANTS,
    Metric,
)
from naics_pipeline.evaluation.page import Inline, inline, templates
from naics_pipeline.evaluation.runs.scores import RunRecord
from naics_pipeline.files import replacing

Numbers = Mapping[str, float | None]
OURS = ("text", "smoothed", "refined")
"""Rows of this project's own; all others are baselines."""
Intervals = Mapping[str, Mapping[str, Sequence[float]]]
_NO_INTERVALS: Intervals = MappingProxyType({})
ABSENT = "–"
_ROOM = Path(__file__).parent

CAPTIONS = {
    "poincare_disk_refined": "Refined embeddings in the Poincaré disk, one dot per code, coloured by sector. The "
    "centre is the root; detailed codes lie near the rim. Two dimensions distort: no metric is read off this picture.",
    "poincare_disk_text": "Text embeddings, the same way.",
    "distance_scatter": "Embedding distance of every pair of codes at each distance in the tree. Narrow shapes on the "
    "dashed line are a faithful embedding.",
    "radius_by_level": "Distance from the origin by level: general codes near the centre, detailed ones outside.",
    "confusion": "Held-out texts by the sector of their code and that of the code found first, by the text model’s "
    "read-outs, mixed. Numbers are texts; the darker, the greater the share of the row.",
    "risk_coverage": "If only the surest answers are given: how many of them are right, by how many texts are "
    "answered, for codes of each level. The dashed line is 95 %.",
    "training_curves": "Training of the text model, epoch by epoch over all stages.",
    "refinement_curves": "Training of the graph refinement.",
    "hardness_histogram": "Triplets from which the text model's negatives are drawn, by hardness.",
}


@dataclass(frozen=True)
class ReportContent:
    """What the page shows; whatever is empty is left out, and a metric that is None or NaN is shown as a dash.

    Attributes:
        source, vintage: where the taxonomy comes from.
        codes, queries_count: numbers of codes and of held-out entries.
        created: when, as it should be shown.
        structure: column → metrics, the embeddings first (text, smoothed, refined), then baselines; rows without
            structure metrics are passed over.
        ceiling: the metrics of the tree itself.
        queries: row → query metrics, likewise; a row for each read-out that its metrics name is made of it.
        stages: stage → metrics after it.
        left_out: the metrics of `graph_model.refine`: `left_out_codes`, and parent_retrieval@1 of these codes and of
            the rest in each space (`left_out_parent_retrieval@1_refined`, `kept_parent_retrieval@1_refined`, ...).
        comparisons: metric → fields of `compare.Comparison`, refined against text.
        gate: fields of each `compare.GateRule`.
        intervals: row or stage → metric → bounds of the interval of its value; left_out_intervals likewise.
        pictures: name → PNG; known names have captions.
        neighbours: heading → frame of nearest codes.
        explorer: the page to explore, as a link from here.
        settings: by dotted key, of what was measured and of the measuring.
        run: the run that this page is of.
        runs: all that were evaluated, the newest first.
        pages: those of them that have a page <run>.html beside this one.
    """

    source: str
    vintage: int
    codes: int
    queries_count: int
    created: str
    structure: Mapping[str, Numbers]
    ceiling: Numbers
    queries: Mapping[str, Numbers]
    stages: Mapping[str, Numbers] = field(default_factory=dict)
    left_out: Numbers = field(default_factory=dict)
    left_out_intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    comparisons: Mapping[str, Numbers] = field(default_factory=dict)
    gate: Sequence[Mapping[str, Any]] = ()
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    neighbours: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    explorer: str | None = None
    run: str = ""
    runs: Sequence[RunRecord] = ()
    pages: Collection[str] = ()


def write_report(path: Path, content: ReportContent) -> None:
    """Writes the page; a reader sees the old one or the new one, never a part."""
    page = render(content)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(content: ReportContent) -> str:
    """The page as text: style and script inline, pictures as data, nothing fetched."""
    structure = _rows_with(content.structure, (*MAIN_STRUCTURE, *MORE_STRUCTURE))
    tasks = _rows_with(content.structure, TASKS)
    texts, intervals = by_readout(content.queries), by_readout(content.intervals)
    queries, labelled = _rows_with(texts, QUERIES), _rows_with(texts, LABELLED)
    sure, stage_texts = _rows_with(texts, CALIBRATION), by_readout(content.stages)
    template = templates(_ROOM).get_template("report.html")
    return template.render(
        parts=still_page(),
        content=content,
        headline=headline(content),
        remark=_smoothing_remark(content),
        columns=list(structure),
        structure=_by_metric(
            structure, content.ceiling, _present(MAIN_STRUCTURE, structure.values()), content.intervals
        ),
        more_structure=_by_metric(structure, content.ceiling, _more(structure.values()), content.intervals),
        tasks=_by_metric(tasks, {}, _present(TASKS, tasks.values()), content.intervals),
        task_columns=list(tasks),
        calibration=_by_row(sure, _present(CALIBRATION, sure.values()), intervals),
        queries=_by_row(queries, _present((*QUERIES, UNREPEATED), queries.values()), intervals),
        labelled=_by_row(labelled, _present(LABELLED, labelled.values()), intervals),
        labelled_counts=_labelled_counts(content.queries),
        stages=_by_row(content.stages, _present(MAIN_STRUCTURE, content.stages.values()), content.intervals),
        stage_texts=_by_row(stage_texts, _present(STAGE_TEXTS, stage_texts.values()), intervals),
        level_spheres=content.settings.get("graph.radii") == "level",
        left_out=_left_out(content.left_out, content.left_out_intervals),
        variants=VARIANTS,
        comparisons=[_comparison(name, row) for name, row in content.comparisons.items()],
        gate=[_gate_rule(rule) for rule in content.gate],
        pictures=[
            (name, CAPTIONS.get(name, name.replace("_", " ")), base64.b64encode(png).decode())
            for name, png in sorted(content.pictures.items(), key=lambda item: _caption_order(item[0]))
        ],
        settings=[(key, str(value)) for key, value in content.settings.items()],
        runs=[_run(run, content) for run in content.runs],
    )


def still_page() -> Inline:
    """Style and script of a page of tables, which can be sorted and searched."""
    return inline([_ROOM / "report.css"], [_ROOM / "tables.js"], attributes=True)


def headline(content: ReportContent) -> str:
    """What the whole page comes to, in one sentence made from the numbers."""
    best = next((name for name in ("refined", "text") if name in content.structure), None)
    if best is None:
        return f"Evaluation of {content.codes:,} codes."
    correlation = shown(content.structure[best].get("cophenetic_correlation"), 2)
    words = f"The {'refined' if best == 'refined' else 'text'} embeddings of {content.codes:,} codes follow the tree "
    words += f"with a correlation of {correlation}"
    if best == "refined" and "text" in content.structure:
        words += f" (text alone: {shown(content.structure['text'].get('cophenetic_correlation'), 2)})"
    found = {name: _best_read(content.queries[name]) for name in ("text", "refined") if name in content.queries}
    known = {name: value for name, value in found.items() if _known(value)}
    if not known:
        return words + "."
    winner = max(known, key=lambda name: known[name] or 0)
    rivals = {name: row.get("query_top1") or 0 for name, row in content.queries.items() if name not in OURS}
    words += f"; {100 * (known[winner] or 0):.0f} of 100 index entries never seen in training find their code first"
    if rivals:
        rival = max(rivals, key=lambda name: rivals[name])
        words += f" (best baseline, {VARIANTS.get(rival, rival)}: {100 * rivals[rival]:.0f})"
    return words + "."


def _best_read(row: Numbers) -> float | None:
    """Top 1 of the mixed read-out where there is one: not the best of all, which would be a choice on held-out text."""
    return row.get("mixed/query_top1", row.get("query_top1"))


def by_readout(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row for each read-out of each row, its name taken out of the metrics' names."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        split: dict[str, dict[str, Any]] = {}
        for metric, value in row.items():
            words = metric.split("/")
            readout = next((word for word in words[:-1] if word in READOUTS), "code")
            split.setdefault(readout, {})["/".join(word for word in words if word != readout)] = value
        label = VARIANTS.get(name, name)
        names = {readout: f"{label}: {words}" for readout, words in READOUTS.items()}
        if "nearest_entry" not in split:
            names["code"] = name
        found |= {names[readout]: split[readout] for readout in READOUTS if readout in split}
    return found


def _labelled_counts(rows: Mapping[str, Numbers]) -> dict[str, int]:
    names = ("texts", "left_out", "other_codes")
    known = next((row for row in rows.values() if row.get("labelled/texts") is not None), None)
    return {name: int(known[f"labelled/{name}"] or 0) for name in names} if known else {}


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def shown(value: float | bool | None, digits: int) -> str:
    """A number as a page shows it: so many decimals, yes or no, and a dash for what is not known."""
    if value is None or math.isnan(value):
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if math.isinf(value):
        return "∞"
    if value != 0 and abs(value) < 10**-digits / 2:
        return f"{value:.1e}"
    return f"{value:,.{min(digits, 6)}f}"


def _present(metrics: Sequence[Metric], rows: Any) -> list[Metric]:
    """The metrics that at least one row has."""
    names = {name for row in rows for name in row}
    return [metric for metric in metrics if metric.name in names]


def _more(rows: Any) -> list[Metric]:
    """Structure metrics outside the main table; one without an entry in the glossary goes by its own name."""
    unknown = dict.fromkeys(name for row in rows for name in row if name not in BY_NAME and "/" not in name)
    return [*_present(MORE_STRUCTURE, rows), *(Metric(name, name, "") for name in unknown)]


@dataclass(frozen=True)
class _Cell:
    text: str
    best: bool = False
    share: float | None = None
    interval: str = ""


def _cells(
    metric: Metric, values: Sequence[float | None], bounds: Sequence[Sequence[float] | None] | None = None
) -> list[_Cell]:
    """Values as shown, those that look best marked; none where all look alike."""
    texts = [shown(value, metric.digits) for value in values]
    known = [value for value in values if _known(value)]
    pick = {"higher": max, "lower": min}.get(metric.better or "")
    best = shown(pick(known), metric.digits) if pick and known else None  # type: ignore[type-var]
    if len(set(texts) - {ABSENT}) < 2:
        best = None
    shares = values if metric in SHARES else [None] * len(texts)
    spans = [_span(found, metric.digits) for found in bounds or ()]
    return [
        _Cell(text, text == best, share if _known(share) else None, span)
        for text, share, span in zip(texts, shares, spans or [""] * len(texts), strict=True)
    ]


def _span(bounds: Sequence[float] | None, digits: int) -> str:
    """An interval as it stands below its value."""
    return "–".join(shown(bound, digits) for bound in bounds) if bounds else ""


def _rows_with(rows: Mapping[str, Numbers], metrics: Sequence[Metric]) -> dict[str, Numbers]:
    """The rows that have one of the metrics: a method without distances between codes is no column of that table."""
    names = {metric.name for metric in metrics}
    return {name: row for name, row in rows.items() if names & row.keys()}


def _by_metric(
    columns: Mapping[str, Numbers], ceiling: Numbers, metrics: Sequence[Metric], intervals: Intervals
) -> list[dict[str, Any]]:
    return [
        {
            "metric": metric,
            "cells": _cells(
                metric,
                [column.get(metric.name) for column in columns.values()],
                [intervals.get(name, {}).get(metric.name) for name in columns],
            ),
            "ceiling": shown(ceiling.get(metric.name), metric.digits),
        }
        for metric in metrics
    ]


def _by_row(
    rows: Mapping[str, Numbers], metrics: Sequence[Metric], intervals: Intervals = _NO_INTERVALS
) -> dict[str, Any]:
    columns = [
        _cells(
            metric,
            [row.get(metric.name) for row in rows.values()],
            [intervals.get(name, {}).get(metric.name) for name in rows],
        )
        for metric in metrics
    ]
    return {
        "metrics": metrics,
        "rows": [(VARIANTS.get(name, name), [column[place] for column in columns]) for place, name in enumerate(rows)],
    }


def _comparison(name: str, row: Numbers) -> dict[str, Any]:
    metric = BY_NAME.get(name) or Metric(name, name, "")
    low, high = row["low"], row["high"]
    verdict = "no difference"
    if low is not None and high is not None and (low > 0 or high < 0):
        verdict = "better" if (low > 0) == (metric.better != "lower") else "worse"
    numbers = {key: shown(row[key], 3) for key in ("difference", "low", "high")}
    return {"label": metric.label, "n": row["n"], "p": shown(row["p_value"], 4), "verdict": verdict, **numbers}


def _left_out(metrics: Numbers, intervals: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Rows of codes left out and kept, a column for each space that the names end in."""
    kinds = {"left_out": "left out", "kept": "fitted on"}
    prefix = "{}_parent_retrieval@1_"
    start = prefix.format("left_out")
    spaces = [name.removeprefix(start) for name in metrics if name.startswith(start)]
    count = metrics.get("left_out_codes")
    rows = []
    for kind, label in kinds.items() if spaces else ():
        size = f" ({count:.0f} codes)" if kind == "left_out" and count is not None else ""
        names = [prefix.format(kind) + space for space in spaces]
        cells = [_Cell(shown(metrics.get(name), 3), interval=_span(intervals.get(name), 3)) for name in names]
        rows.append((label + size, cells))
    return {"columns": spaces, "rows": rows}


def _gate_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    known = _known(rule["before"]) and _known(rule["after"])
    change = rule["after"] - rule["before"] if known else float("nan")
    metric = BY_NAME.get(rule["metric"])
    return {
        "label": metric.label if metric else rule["metric"],
        "before": shown(rule["before"], 3),
        "after": shown(rule["after"], 3),
        "change": shown(change, 3),
        "minimum": shown(rule["minimum"], 3),
        "passed": known and change >= rule["minimum"],
    }


def _smoothing_remark(content: ReportContent) -> str:
    """Whether refinement beats its parameter-free control, in words."""
    if not {"smoothed", "refined"} <= content.structure.keys():
        return ""
    smoothed, refined = content.structure["smoothed"], content.structure["refined"]
    both = [metric for metric in MAIN_STRUCTURE if _known(smoothed.get(metric.name))]
    judged = [metric for metric in both if _known(refined.get(metric.name))]
    lost = [metric.label for metric in judged if _worse(metric, refined[metric.name] or 0, smoothed[metric.name] or 0)]
    if not lost:
        return "Refinement is at least as good as plain smoothing on every metric of this table."
    return f"Refinement does not beat plain smoothing on {len(lost)} of {len(judged)} metrics: {', '.join(lost)}."


def _worse(metric: Metric, value: float, other: float) -> bool:
    return value < other if metric.better == "higher" else value > other


def _caption_order(name: str) -> int:
    return list(CAPTIONS).index(name) if name in CAPTIONS else len(CAPTIONS)


_OF_RUN = ("cophenetic_correlation", "parent_retrieval@1", "ndcg@10")


def _run(run: RunRecord, content: ReportContent) -> dict[str, Any]:
    """A line of the list of runs."""
    metrics = run.metrics
    best = metrics.get("refined", metrics.get("text", {}))
    failed = [rule["metric"] for rule in run.gate if not _gate_rule(rule)["passed"]]
    gate = f"failed: {', '.join(failed)}" if failed else ("passed" if run.gate else ABSENT)
    return {
        "name": run.name,
        "is_shown": run.name == content.run,
        "has_page": run.name in content.pages,
        "created": run.created[:16].replace("T", " "),
        "what": " ".join(str(run.settings.get(key, "")) for key in ("source", "vintage")),
        "seed": str(run.settings.get("seed", ABSENT)),
        "numbers": [shown(best.get(name), 3) for name in _OF_RUN] + [shown(_best_read(metrics.get("text", {})), 3)],
        "gate": gate,
    }
