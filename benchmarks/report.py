"""What report and pages cost at full size: `python -m benchmarks report [--keep DIRECTORY]`.

Codes and texts are those of the workbooks in NAICS_CENSUS_DIR (../shared/census/2022), else of the sample; points and
scores are made up, along the tree: nothing measured here depends on training. The pages are opened in the Chromium of
this machine, or in the one that CHROMIUM names.
"""

import argparse
import base64
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.evaluation import frames
from benchmarks.measure import measure
from naics_pipeline.evaluation.explorer.content import explorer_content
from naics_pipeline.evaluation.explorer.page import write_explorer
from naics_pipeline.evaluation.explorer.texts import SearchedTexts
from naics_pipeline.evaluation.glossary import MAIN_STRUCTURE, MORE_STRUCTURE, READOUTS, TASKS
from naics_pipeline.evaluation.retrieval import BRIEF, NAMES
from naics_pipeline.evaluation.runs.scores import FOLDER, scores_frame, text_keys, write_scores
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.taxonomy.text import HELD_OUT, TRAIN
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree

MANY = 20_000
DIMENSIONS = Model().embedding_dim
SEARCHED, DRAGGED_SECONDS = 30, 4
NAICS = str(Path(sys.executable).with_name("naics"))
WATCH = """
addEventListener("keydown", (event) => { if (event.key === "Enter") window.entered = performance.now(); }, true);
addEventListener("input", () => { window.typed = performance.now(); }, true);
window.waits = {highlight: [], list: []};
new MutationObserver((changes) => {
  for (const { target, attributeName } of changes) {
    if (attributeName === "data-selected" && window.drawn === undefined) window.drawn = performance.now();
    if (attributeName === "data-selected" && window.entered) {
      window.waits.highlight.push(performance.now() - window.entered);
      window.entered = 0;
    }
    if (attributeName === "aria-expanded" && window.typed && target.getAttribute("aria-expanded") === "true") {
      window.waits.list.push(performance.now() - window.typed);
      window.typed = 0;
    }
  }
}).observe(document, { subtree: true, attributes: true });
window.painted = [];
const cleared = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...given) {
  window.painted.push(performance.now());
  return cleared.apply(this, given);
};
"""
"""Beside the page's own scripts: when it first drew, how long a search takes, and each repainting of the disk."""


def points(tree: Tree, seed: int) -> Embeddings:
    """Every code at its parent's place and a step on."""
    generator = np.random.default_rng(seed)
    place = np.zeros((len(tree), DIMENSIONS))
    for code in np.argsort(tree.level, kind="stable"):
        parent = tree.parent[code]
        place[code] = (place[parent] if parent >= 0 else 0) + generator.normal(0, 0.1, DIMENSIONS)
    return Embeddings(tree.codes, lorentz.exp0(torch.from_numpy(place)).numpy())


def full_page(descriptions: pl.DataFrame, entries: pl.DataFrame, tree: Tree) -> dict[str, Any]:
    """Two spaces, all held-out texts, all training entries: what the report's explorer holds."""
    held_out, generator = entries.filter(split=HELD_OUT), np.random.default_rng(0)
    candidates = tree.codes[tree.level == 6]
    right = np.searchsorted(candidates, held_out["code"].to_numpy().astype(np.str_))
    chances = generator.gamma(0.05, size=(len(right), len(candidates)))
    chances[np.arange(len(right)), right] += 3
    chances /= chances.sum(axis=1, keepdims=True)
    return explorer_content(
        {"Refined by the graph": points(tree, 0), "Text model": points(tree, 1)},
        descriptions,
        tree,
        texts=SearchedTexts(held_out["entry"].to_list(), candidates, right, chances),
        examples=entries.filter(split=TRAIN).select("code", text="entry"),
        about="made-up points",
    )


def many_codes() -> dict[str, Any]:
    """A page of twenty thousand codes with an edge each; what would take a matrix of all pairs is made up."""
    tree, generator = balanced_tree(MANY), np.random.default_rng(0)
    leaf = tree.level == 6
    angle = np.zeros(MANY)
    angle[leaf] = np.linspace(0, 2 * np.pi, leaf.sum(), endpoint=False)
    for level in (5, 4, 3, 2):
        of = tree.parent[tree.level == level + 1]
        total = np.bincount(of, weights=angle[tree.level == level + 1], minlength=MANY)
        here = tree.level == level
        angle[here] = total[here] / np.bincount(of, minlength=MANY)[here].clip(min=1)
    radius = 1.05 * (tree.level - 1) + generator.normal(0, 0.1, MANY)
    column = {"name": "radius", "label": "Radius", "kind": "number", "values": radius.round(3).tolist()}
    space = {
        "label": "made up", "geometry": "lorentz", "curvature": 1.0, "dimensions": 2, "correlation": 0.9, "error": 0.1,
        "kept": 0.5, "radius": radius.round(5).tolist(), "angle": angle.round(6).tolist(),
        "neighbours": generator.integers(0, MANY, MANY * 3).tolist(), "distances": [1.0] * (MANY * 3),
        "points": {"step": 1.0, "base64": base64.b64encode(bytes(4 * MANY)).decode()}, "columns": [column],
        "density": {"largest": 1.0, "rows": [{"step": 1, "median": 0.5, "counts": [1]}]},
        "levels": [{"level": 2, "count": 20, "quantiles": [1.0] * 7}], "texts": None,
    }  # fmt: skip
    codes = {"code": tree.codes.tolist(), "parent": tree.parent.tolist(), "title": [f"Code {c}" for c in tree.codes]}
    codes |= {"description": [""] * MANY, "examples": [[]] * MANY}
    return {"about": "made up", "codes": codes, "spaces": [space], "columns": [], "texts": None}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The page at desktop size; ends in an error where it asked for anything or said anything."""
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    chromium = next(found for name in names if name and (found := shutil.which(name)))
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        page.add_init_script(WATCH)
        page.goto(path.as_uri())
        try:
            page.wait_for_selector("#codes tbody tr")
            yield page
        finally:
            browser.close()
            if said:
                raise RuntimeError(f"{path}: the page was to be silent and ask for nothing, but: {said[:5]}")


def first_paint(path: Path) -> tuple[float, float]:
    """Seconds until the page first shows anything, and until the disk is drawn; medians of five openings."""
    seen = []
    for _ in range(5):
        with opened(path) as page:
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            seen.append((page.evaluate(paint) / 1000, page.evaluate("window.drawn") / 1000))
    shown, drawn = zip(*seen, strict=True)
    return statistics.median(shown), statistics.median(drawn)


def search_waits(path: Path, codes: list[str]) -> dict[str, list[float]]:
    """Milliseconds from Enter to the code marked in the picture, and from a letter typed to the list."""
    with opened(path) as page:
        for code in codes:
            page.fill("#search", "")
            page.locator("#search").press_sequentially(code)
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#disk[data-selected='{code}']")
        waits: dict[str, list[float]] = page.evaluate("window.waits")
        return waits


def frames_while_dragged(path: Path) -> tuple[float, float]:
    """Repaintings a second while the disk is dragged about, and the longest wait between two, in milliseconds."""
    with opened(path) as page:
        box = page.locator("#disk").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.evaluate("window.painted.length = 0")
        start, step = time.perf_counter(), 0
        while time.perf_counter() - start < DRAGGED_SECONDS:
            step += 1
            page.mouse.move(x + 150 * np.sin(step / 40), y + 150 * np.cos(step / 31) - 150)
        page.mouse.up()
        at = page.evaluate("window.painted")
        return 1000 * (len(at) - 1) / (at[-1] - at[0]), float(np.diff(at).max())


def made_up_run(directory: Path, run: str, descriptions: pl.DataFrame, entries: pl.DataFrame, tree: Tree) -> None:
    """A run's scores as an evaluation with all read-outs and baselines leaves them."""
    generator = np.random.default_rng(sum(run.encode()))
    asked = entries.filter(pl.col("split") != TRAIN)
    keys = text_keys(asked["code"], asked["entry"])
    held_out, mean = asked["split"] == HELD_OUT, pl.col("value").mean()
    of_codes = [metric.name for metric in (*MAIN_STRUCTURE, *MORE_STRUCTURE, *TASKS)]

    subsets = {"": (held_out, NAMES), "unrepeated/": (held_out, BRIEF), "validation/": (~held_out, BRIEF)}

    def frame(readouts: list[str]) -> pl.DataFrame:
        parts = [scores_frame(tree.codes, {name: generator.uniform(size=len(tree)) for name in of_codes})]
        for prefix, (rows, names) in subsets.items():
            named, own = [f"{prefix}{readout}{name}" for readout in readouts for name in names], keys.filter(rows)
            parts.append(scores_frame(own, {name: generator.uniform(size=len(own)).round(2) for name in named}))
        return pl.concat(parts)

    marks = ["", *(f"{name}/" for name in list(READOUTS)[1:])]
    baselines = {name: frame([""]) for name in ("tfidf", "linear_svm", "frozen_text")}
    evaluations = {"text": {"text": frame(marks)} | baselines}
    evaluations["refined"] = {"smoothed": frame([""]), "refined": frame([""])}
    epochs = [{"train/loss": float(np.exp(-epoch / 9)), "val/query_top1": epoch / 40} for epoch in range(30)]
    for evaluation, scores in evaluations.items():
        record = {
            "metrics": {name: dict(rows.group_by("metric").agg(mean).iter_rows()) for name, rows in scores.items()},
            "measured": {"text": {"origin": {"settings": {"seed": run}, "data": {"descriptions": "made up"}}}},
            "evaluated": {"run_id": run, "created": "2026-01-01T00:00:00+00:00"},
            "curves": {"01_easy": epochs},
        }
        write_scores(directory / FOLDER / run / f"{evaluation}.parquet", run, scores, record)
    descriptions.write_parquet(directory / "descriptions.parquet")


def compare_seconds(directory: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processors: the command as a user has it, the start of Python with it."""
    start, before = time.perf_counter(), os.times()
    runs = [str(directory / FOLDER / run) for run in ("first", "second")]
    environment = os.environ | {"NAICS_DATA_DIR": str(directory)}
    command = [NAICS, "compare", *runs, "--out", str(directory / "comparison.html")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, spent


def main(arguments: list[str]) -> None:
    """Prints a table of what is asked and what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("--keep", type=Path, help="leave the pages in this directory")
    kept = parser.parse_args(arguments).keep
    with tempfile.TemporaryDirectory() as temporary:
        directory = (kept or Path(temporary)).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        descriptions, entries, tree = frames()
        explorer, many = directory / "explorer.html", directory / "explorer_20000.html"
        write_explorer(explorer, full_page(descriptions, entries, tree))
        write_explorer(many, many_codes())
        print(f"{os.cpu_count()} processors, for which {os.getloadavg()[0]:.1f} processes queued when this began.\n")
        print("| what | asked | measured |\n| --- | --- | --- |")
        row(f"the page to explore, {len(tree):,} codes", "≤ 5 MB", f"{explorer.stat().st_size / 1e6:.2f} MB")
        shown, drawn = first_paint(explorer)
        row("its first paint", "≤ 2 s", f"{shown:.2f} s; the disk {drawn:.2f} s")
        codes = np.random.default_rng(0).choice(tree.codes, SEARCHED, replace=False).tolist()
        waits = search_waits(explorer, codes)
        for name, what in (("highlight", "from Enter to the code marked"), ("list", "from a letter to the list")):
            row(what, "≤ 100 ms", f"median {np.median(waits[name]):.0f} ms, longest {max(waits[name]):.0f} ms")
        for path, size in ((explorer, len(tree)), (many, MANY)):
            rate, longest = frames_while_dragged(path)
            row(f"dragged, {size:,} codes", "≥ 30 frames/s", f"{rate:.0f} frames/s, longest wait {longest:.0f} ms")
        for run in ("first", "second"):
            made_up_run(directory, run, descriptions, entries, tree)
        seconds, spent = compare_seconds(directory)
        row("naics compare, two runs with all scores", "≤ 20 s", f"{seconds:.1f} s ({spent:.1f} CPU s)")
        for function, what in (("to_metrics", "every structure metric, exact"), ("to_tasks", "every task")):
            cost = measure("evaluation", function)
            found = f"{cost.seconds:.2f} s ({cost.cpu_seconds:.2f} CPU s), {cost.peak_mb:.0f} MB"
            row(f"{what}, {len(tree):,} codes", "≤ 5 s, ≤ 1 GB", found)


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)
