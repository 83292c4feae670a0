"""The picture of what depends on what, drawn from the asset graph itself: a row is a step, a colour a group."""

from collections import defaultdict
from html import escape
from typing import Any

COLOURS = {
    "taxonomy": "#2f7d5b",
    "training_data": "#8a6d1f",
    "text_model": "#2f5f9e",
    "graph_model": "#7a4a9e",
    "evaluation": "#a3472f",
    "search": "#3f7f8f",
}
WIDTH, HEIGHT, GAP_X, GAP_Y, TOP = 150, 26, 20, 24, 34


def lineage(graph: Any) -> str:
    """An SVG of a Dagster asset graph."""
    parents = {key: set(graph.get(key).parent_keys) for key in graph.get_all_asset_keys()}
    place = _places(parents)
    groups = [group for group in COLOURS if any(graph.get(key).group_name == group for key in parents)]
    right = max(*(x + WIDTH for x, _ in place.values()), 112 * len(groups)) + 2
    bottom = max(y for _, y in place.values()) + HEIGHT + 2
    direct = {(above, key) for key, found in parents.items() for above in _direct(found, parents)}
    lines = [_line(place[above], place[key]) for above, key in sorted(direct, key=str)]
    boxes = [_box(key.to_user_string(), graph.get(key).group_name, *place[key]) for key in sorted(parents, key=str)]
    legend = [_legend(group, number) for number, group in enumerate(groups)]
    style = f'font-family="sans-serif" font-size="12" width="{right}" viewBox="0 0 {right} {bottom}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {style}>', *legend, *lines, *boxes, "</svg>\n"])


def _steps(parents: dict[Any, set[Any]]) -> dict[Any, int]:
    """Key → length of the longest way to it."""
    step: dict[Any, int] = {}

    def of(key: Any) -> int:
        if key not in step:
            step[key] = 1 + max((of(above) for above in parents[key]), default=-1)
        return step[key]

    for key in parents:
        of(key)
    return step


def _direct(above: set[Any], parents: dict[Any, set[Any]]) -> set[Any]:
    """Those of some assets that no other of them depends on already."""
    further: set[Any] = set()
    waiting = list(above)
    while waiting:
        found = parents[waiting.pop()] - further
        further |= found
        waiting += found
    return above - further


def _places(parents: dict[Any, set[Any]]) -> dict[Any, tuple[float, float]]:
    """Key → where its box begins; within a row they lie in the order of what they depend on, about the middle."""
    rows = defaultdict(list)
    for key, step in _steps(parents).items():
        rows[step].append(key)
    place: dict[Any, tuple[float, float]] = {}
    widest = max(len(found) for found in rows.values())
    for step in sorted(rows):
        found = sorted(rows[step], key=lambda key: (_mean_x(parents[key], place), str(key)))
        first = (widest - len(found)) / 2
        for column, key in enumerate(found):
            place[key] = (1 + (first + column) * (WIDTH + GAP_X), TOP + step * (HEIGHT + GAP_Y))
    return place


def _mean_x(above: set[Any], place: dict[Any, tuple[float, float]]) -> float:
    return sum(place[key][0] for key in above) / len(above) if above else 0


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y, to_x, to_y = start[0] + WIDTH / 2, start[1] + HEIGHT, end[0] + WIDTH / 2, end[1]
    path = f"M{x} {y} C{x} {y + GAP_Y} {to_x} {to_y - GAP_Y} {to_x} {to_y}"
    return f'<path d="{path}" fill="none" stroke="#999" stroke-width="1.2"/>'


def _box(name: str, group: str, x: float, y: float) -> str:
    frame = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{COLOURS.get(group, "#555")}"/>'
    middle = f'x="{x + WIDTH / 2}" y="{y + HEIGHT / 2 + 4}" text-anchor="middle" fill="#fff"'
    return f"{frame}<text {middle}>{escape(name)}</text>"


def _legend(group: str, number: int) -> str:
    x = 1 + number * 112
    mark = f'<rect x="{x}" y="4" width="12" height="12" rx="3" fill="{COLOURS[group]}"/>'
    return f'{mark}<text x="{x + 17}" y="14" fill="{COLOURS[group]}">{escape(group)}</text>'
