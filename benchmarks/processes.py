"""Texts that several processes read in a second of training, against one: `python -m benchmarks processes`.

Each line trains one epoch of the first stage on the bundled sample. Settings come from profile and environment as
everywhere; on a CPU the processes share its processors, so that one is as fast as they can be at best.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from naics_pipeline import config
from naics_pipeline.evaluation.structure import structure_metrics
from naics_pipeline.settings import Download, Settings
from naics_pipeline.taxonomy import census, text
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.curriculum.stage import load_curriculum
from naics_pipeline.text_model.training.loop import train_stage


def line(settings: Settings, processes: int) -> str:
    """A line of the table: what an epoch takes with so many processes, and the loss it ends with."""
    training = settings.training.model_copy(update={"devices": processes})
    settings = settings.model_copy(update={"training": training})
    books = census.read_source("sample", settings.vintage, Download(), Path(tempfile.gettempdir()))
    entries = text.index_entries(books, settings.taxonomy.held_out_fraction, settings.taxonomy.validation_fraction)
    frame = text.descriptions(books, entries)
    tree = Tree.from_codes(frame["code"].to_list())
    first = load_curriculum(Path(settings.curriculum))[0].model_copy(update={"epochs": 1})
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        result = train_stage(
            first,
            settings,
            descriptions=frame,
            index_entries=entries,
            phrases=text.activity_phrases(books, frame, entries),
            token_cache=place / "token_cache",
            hidden_cache=place / "hidden_states",
            directory=place / first.name,
            start_from=None,
            metrics=partial(structure_metrics, tree=tree),
            on_epoch=lambda epoch, values: None,
        )
    seconds, loss = result.metrics["seconds"], result.metrics["val/loss"]
    short = result.places.columns
    # Every short text once, and what is made of the entries.
    texts = short.height + settings.training.variations * short.filter(kind="entry").height
    return f"| {processes} | {seconds:.1f} | {texts / seconds:.0f} | {loss:.4f} |"


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks processes", description=__doc__)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], help="how many, a line for each")
    given = parser.parse_args(arguments)
    settings = config.load().settings
    print("| processes | s an epoch | texts/s | val/loss |\n| --- | --- | --- | --- |")
    for processes in given.processes:
        print(line(settings, processes), flush=True)
