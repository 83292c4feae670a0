"""The pictures of the report, each as PNG bytes; one look and one palette for all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from textwrap import shorten
from typing import Any

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.style import context as style_context

from naics_pipeline.evaluation.layout import disk_layout
from naics_pipeline.scorers.calibration import PRECISION
from naics_pipeline.scorers.calibration import risk_coverage as curve_of
from naics_pipeline.taxonomy.tree import LEVELS, Tree

VARIANT_COLOURS = {"text": "#3b6fb6", "smoothed": "#e08a1e", "refined": "#2a8c6a"}
_OTHER_COLOURS = ("#7a4fa3", "#b23a48", "#5f6b7a", "#8c6d31")
_INK, _GREY = "#222b36", "#8a94a0"
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_DPI = 130
_BINS = 120
_LABEL_GAP = 0.085

HARDNESS_RULES = {
    8: "excludes one another",
    7: "≤ 0.5 farther than the positive",
    6: "≤ 1 farther",
    5: "≤ 2 farther",
    4: "≤ 3 farther",
    3: "≤ 4 farther",
    2: "more than 4 farther",
    1: "another sector",
}


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, BytesIO]]:
    buffer = BytesIO()
    with style_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, buffer
        figure.savefig(buffer, format="png", dpi=_DPI)


def _colour(name: str, position: int) -> str:
    return VARIANT_COLOURS.get(name, _OTHER_COLOURS[position % len(_OTHER_COLOURS)])


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, float | None]]],
    metrics: Sequence[str] | None = None,
    *,
    overlaid: bool = False,
) -> bytes:
    """A panel per metric over the epochs of all stages, one after the other.

    Args:
        overlaid: the histories are those of several runs, and lie over one another.
        histories: stage → its epochs, each a row of named numbers; None where a file says that there was none.
        metrics: which to draw; None: all but `epoch`, in the order of first appearance.
    """
    rows = [row for history in histories.values() for row in history]
    names = list(metrics or dict.fromkeys(name for row in rows for name in row if name != "epoch"))
    names = [name for name in names if np.isfinite(_values(rows, name)).any()] or ["loss"]
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    stages = list(histories)
    palette = colormaps["viridis"](np.linspace(0.1, 0.75, len(stages)))
    with _figure(4.2 * columns, 2.5 * height + 0.4) as (figure, buffer):
        axes = figure.subplots(height, columns, squeeze=False).ravel()
        for panel in axes[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(axes, names, strict=False):
            start = 0
            for stage, colour in zip(stages, palette, strict=True):
                values = _values(histories[stage], name)
                epochs = start + 1 + np.arange(len(values))
                known = np.isfinite(values)
                marker = "o" if known.sum() < 30 else None
                panel.plot(epochs[known], values[known], color=colour, marker=marker, markersize=3, label=stage)
                start += 0 if overlaid else len(values)
            panel.set_title(name)
            panel.set_xlabel("epoch, all stages")
        if stages:
            axes[0].legend(fontsize=8)
    return buffer.getvalue()


def _values(rows: Sequence[Mapping[str, float | None]], name: str) -> np.ndarray:
    """(rows,) float64, NaN where there is none."""
    return np.array([row.get(name) for row in rows], dtype=np.float64)


def distance_scatter(distances: Mapping[str, np.ndarray], tree: Tree) -> bytes:
    """For each variant, how the embedding distances of all pairs spread at each tree distance; dots are medians.

    Args:
        distances: variant → (N, N).
    """
    first, second = np.triu_indices(len(tree), k=1)
    steps = tree.tree_distance()[first, second]
    with _figure(4.6 * len(distances), 4.2) as (figure, buffer):
        panels = figure.subplots(1, len(distances), squeeze=False)[0]
        for position, (panel, (name, matrix)) in enumerate(zip(panels, distances.items(), strict=True)):
            _spread(panel, steps, matrix[first, second], _colour(name, position))
            panel.set_title(name)
            panel.set_xlabel("tree distance (edges)")
        panels[0].set_ylabel("embedding distance (1/√c)")
    return buffer.getvalue()


def _spread(panel: Axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    """A histogram of all values per step, drawn upright and mirrored, all of the same width."""
    bins = np.linspace(0, max(float(values.max()), 1e-9), _BINS + 1)
    for step in np.unique(steps):
        here = values[steps == step]
        count, _ = np.histogram(here, bins=bins)
        width = 0.42 * np.repeat(count / count.max(), 2)
        panel.fill_betweenx(np.repeat(bins, 2)[1:-1], step - width, step + width, color=colour, alpha=0.55, lw=0)
        panel.plot(step, np.median(here), "o", color=_INK, markersize=4)
    slope = float(values @ steps / (steps.astype(np.float64) @ steps))
    ends = np.array([0.0, float(steps.max())])
    panel.plot(ends, slope * ends, color=_INK, lw=1, ls="--", label=f"{slope:.2f} per edge")
    panel.set_xticks(np.unique(steps))
    panel.set_ylim(0, None)
    panel.legend(loc="upper left", fontsize=8)


def radius_by_level(radii: Mapping[str, np.ndarray], tree: Tree) -> bytes:
    """How far from the origin the codes of each level lie, a box per variant and level.

    Args:
        radii: variant → (N,) hyperbolic distance from the origin.
    """
    levels = [level for level in LEVELS if (tree.level == level).any()]
    width = 0.8 / max(len(radii), 1)
    with _figure(7.2, 4.2) as (figure, buffer):
        panel = figure.subplots()
        for position, (name, radius) in enumerate(radii.items()):
            colour = _colour(name, position)
            shift = (position - (len(radii) - 1) / 2) * width
            boxes = panel.boxplot(
                # Codes of one sphere differ by roundings, which would show as outliers.
                [radius[tree.level == level].round(6) for level in levels],
                positions=[level + shift for level in levels],
                widths=0.85 * width,
                patch_artist=True,
                medianprops={"color": colour, "linewidth": 2},
                whiskerprops={"color": colour},
                capprops={"color": colour},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour, "alpha": 0.5},
            )
            for box in boxes["boxes"]:
                box.set(facecolor=(colour, 0.3), edgecolor=colour)
            boxes["boxes"][0].set_label(name)
        panel.set_xticks(levels, [str(level) for level in levels])
        panel.set_xlabel("level (digits of the code)")
        panel.set_ylabel("distance from the origin (1/√c)")
        panel.set_title("Radius by level")
        panel.set_ylim(0, None)
        panel.legend(loc="upper left")
    return buffer.getvalue()


def predictions(actual: np.ndarray, predicted: Mapping[str, np.ndarray], target: str) -> bytes:
    """Predicted against actual values, a panel for each kind of features; on the line they are equal.

    Args:
        actual: (n,).
        predicted: features → (n,).
    """
    ends = np.array([actual.min(), actual.max()])
    with _figure(4.2 * len(predicted), 4.2) as (figure, buffer):
        panels = figure.subplots(1, len(predicted), squeeze=False, sharex=True, sharey=True)[0]
        for position, (panel, (name, values)) in enumerate(zip(panels, predicted.items(), strict=True)):
            panel.plot(actual, values, ".", color=_OTHER_COLOURS[position % len(_OTHER_COLOURS)], alpha=0.5)
            panel.plot(ends, ends, color=_INK, lw=1, ls="--")
            panel.set_title(name)
            panel.set_xlabel(f"{target}, actual")
        panels[0].set_ylabel(f"{target}, predicted for codes not seen")
    return buffer.getvalue()


def confusion(sectors: Sequence[str], counts: np.ndarray, titles: Mapping[str, str]) -> bytes:
    """Sectors taken for one another: the darker, the greater the share of its row; numbers are texts.

    Args:
        counts: (S, S), rows the right sector, columns the one found.
        titles: code → title.
    """
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 0.36 * len(sectors)
    with _figure(side + 4, side + 0.9) as (figure, buffer):
        panel = figure.subplots()
        panel.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 0.3
            said, colour = str(counts[row, column]), "white" if dark else _INK
            panel.text(column, row, said, color=colour, fontsize=7, ha="center", va="center")
        places = np.arange(len(sectors))
        named = [shorten(f"{titles.get(code, '')} {code}", 44, placeholder="… " + code) for code in sectors]
        panel.set_yticks(places, named, fontsize=8)
        panel.set_xticks(places, sectors, fontsize=8)
        panel.set_xlabel("sector of the code found first")
        panel.set_title("Held-out texts by sector")
        panel.grid(visible=False)
    return buffer.getvalue()


def risk_coverage(answers: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """How many of the surest answers are right, by the share of texts that is answered; a line for each level.

    Args:
        answers: digits → (Q,) probabilities of the first answers, and whether they are right.
    """
    with _figure(7.2, 4.2) as (figure, buffer):
        panel = figure.subplots()
        palette = colormaps["viridis"](np.linspace(0.1, 0.8, len(answers)))
        for colour, (digits, (chance, right)) in zip(palette, answers.items(), strict=True):
            _, share, precision = curve_of(chance, right)
            panel.plot(share, precision, color=colour, lw=1.6, label=f"{digits} digits")
        panel.axhline(PRECISION, color=_GREY, lw=1, ls="--")
        panel.set(xlim=(0, 1), ylim=(None, 1.005), xlabel="share of texts answered, the surest first")
        panel.set_ylabel("share of these answers right")
        panel.set_title("Precision by share answered")
        panel.legend(loc="lower left", fontsize=8)
    return buffer.getvalue()


def hardness_histogram(table: pl.DataFrame) -> bytes:
    """How many triplets there are of each hardness.

    Args:
        table: columns hardness and triplets.
    """
    table = table.sort("hardness")
    hardness, count = table["hardness"].to_list(), table["triplets"].to_numpy().astype(np.float64)
    with _figure(7.6, 3.8) as (figure, buffer):
        panel = figure.subplots()
        colours = colormaps["YlOrRd"](np.linspace(0.3, 0.9, 8))[[value - 1 for value in hardness]]
        bars = panel.barh(np.arange(len(hardness)), count, color=colours)
        panel.bar_label(bars, labels=[f"{int(value):,}" for value in count], padding=4, fontsize=8.5)
        labels = [f"{value}: {HARDNESS_RULES[value]}" for value in hardness]
        panel.set_yticks(np.arange(len(hardness)), labels)
        panel.set_xscale("log")
        panel.set_xlim(0.5, count.max() * 300)
        panel.set_xlabel("triplets (logarithmic)")
        panel.set_title(f"{int(count.sum()):,} triplets by hardness of the negative")
        panel.grid(visible=False, axis="y")
    return buffer.getvalue()


def poincare_disk(
    distances: np.ndarray, radii: np.ndarray, tree: Tree, titles: Mapping[str, str], *, name: str
) -> bytes:
    """The embedding drawn in the Poincaré disk by `disk_layout`, edges of the tree thin, coloured by sector.

    Args:
        distances: (N, N) of the embedding.
        radii: (N,) distances from its origin.
        titles: code → title, for the sectors' labels.
        name: which embedding it is, for the title.
    """
    layout = disk_layout(distances, radii, tree)
    places, sectors = layout.places, np.unique(tree.sector)
    palette = np.array([colormaps["tab20"](i % 20) for i in range(len(sectors))])
    colours = palette[np.searchsorted(sectors, tree.sector)]
    children = np.flatnonzero(tree.parent >= 0)
    with _figure(12.2, 8) as (figure, buffer):
        panel = figure.subplots()
        panel.add_patch(Circle((0, 0), 1, facecolor="#fafbfc", edgecolor=_GREY, lw=0.8))
        edges = np.stack([places[children], places[tree.parent[children]]], axis=1)
        panel.add_collection(LineCollection(list(edges), colors=colours[children], linewidths=0.35, alpha=0.5))
        size = np.array([0, 0, 90, 34, 16, 8, 5])[tree.level]
        panel.scatter(places[:, 0], places[:, 1], c=colours, s=size, linewidths=0, zorder=2)
        for sector, colour, place in zip(sectors, palette, _rim_labels(places, tree, sectors), strict=True):
            code = str(tree.codes[sector])
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "lw": 1.3}
            panel.annotate(code, place, ha="center", va="center", fontsize=8.5, fontweight="bold", bbox=box)
            panel.scatter(
                [], [], color=[colour], s=40, label=shorten(f"{code} {titles.get(code, '')}", 38, placeholder="…")
            )
        panel.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal")
        panel.axis("off")
        panel.set_title(f"{name}: Poincaré disk (its distances in two dimensions, r = {layout.correlation:.2f})")
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, title="sector", alignment="left")
    return buffer.getvalue()


def _rim_labels(places: np.ndarray, tree: Tree, sectors: np.ndarray) -> np.ndarray:
    """(sectors, 2): just outside the disk, at the mean direction of each sector's deepest codes, kept apart."""
    deepest = tree.level == tree.level.max()
    own = (tree.sector[None, :] == sectors[:, None]) & deepest
    own[~own.any(axis=1)] = (tree.sector[None, :] == sectors[:, None])[~own.any(axis=1)]
    direction = places / np.linalg.norm(places, axis=1, keepdims=True).clip(1e-9)
    mean = own @ direction
    angle = np.arctan2(mean[:, 1], mean[:, 0])
    order = np.argsort(angle)
    ordered = angle[order]
    gap = _LABEL_GAP * np.arange(len(ordered))
    ahead = np.maximum.accumulate(ordered - gap) + gap
    behind = np.minimum.accumulate((ordered - gap)[::-1])[::-1] + gap
    angle[order] = (ahead + behind) / 2
    return 1.07 * np.column_stack([np.cos(angle), np.sin(angle)])
