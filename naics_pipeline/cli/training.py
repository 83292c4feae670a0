"""Training, before it begins: `inspect-curriculum`, `tune-batch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides
from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    import polars as pl

    from naics_pipeline.text_model.curriculum.inspect import Drawn

app = typer.Typer()


@app.command("inspect-curriculum", epilog="Examples: naics inspect-curriculum · naics inspect-curriculum 03_hard")
def inspect_curriculum(
    stage: Annotated[str | None, typer.Argument(help="Name of a stage; without one, all of them.")] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """What each stage draws in an epoch: pairs by relation, negatives by bucket, examples. Nothing is trained."""
    from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
    from naics_pipeline.text_model.curriculum.inspect import inspect_stage
    from naics_pipeline.text_model.curriculum.stage import load_curriculum

    settings = config.load(profile, overrides(set_)).settings
    stages = load_curriculum(Path(settings.curriculum))
    if stage is not None:
        stages = [one for one in stages if one.name == stage]
        if not stages:
            names = ", ".join(one.name for one in load_curriculum(Path(settings.curriculum)))
            raise SettingsError(f"there is no stage '{stage}' in {settings.curriculum}; stages are {names}.")
    descriptions = _texts(settings)["descriptions"].sort("code")
    tree = Tree.from_codes(descriptions["code"].to_list())
    excluded, held_out = (
        excluded_matrix(descriptions, tree),
        held_out_pairs(tree, settings.training.validation_fraction),
    )
    console = Console()
    for one in stages:
        console.rule(f"{one.name}: {one.epochs} epochs", align="left")
        if not one.all_phases:
            console.print("short texts alone, no pairs of codes\n")
            continue
        for drawn in inspect_stage(one, tree, excluded, held_out, descriptions["title"].to_list(), seed=settings.seed):
            _show(console, drawn)


def _show(console: Console, drawn: "Drawn") -> None:
    if drawn.waits:
        console.print(
            f"phase {drawn.phase}: shares of {', '.join(drawn.waits)} look at the model and are not drawn here"
        )
    for title, frame in (("positives", drawn.pairs), ("negatives by hardness", drawn.negatives)):
        table = Table(*frame.columns, title=f"{drawn.phase}: {title}", title_justify="left")
        for row in frame.iter_rows():
            table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
        console.print(table)
    for example in drawn.examples.iter_rows(named=True):
        console.print(
            f"[bold]{escape(example['anchor'])}[/bold] with {escape(example['positive'])}, not with", soft_wrap=True
        )
        for negative in example["negatives"]:
            console.print(f"    {escape(negative)}", highlight=False, soft_wrap=True)
    console.print()


@app.command("tune-batch", epilog="Examples: naics tune-batch · naics tune-batch --profile gpu --write")
def tune_batch(
    write: Annotated[bool, typer.Option("--write", help="Put the largest batch into the profile's file.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="No batch above this is tried.")] = 8192,
    memory_share: Annotated[
        float, typer.Option(min=0.1, max=1, help="Of the device's memory that a batch may take.")
    ] = 0.9,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The largest batch of short texts that fits, found by training steps on the device itself."""
    from naics_pipeline.text_model.training.tuning import largest, try_sizes, write_batch

    conf = config.load(profile, overrides(set_))
    store = Store(conf.settings.data_dir)
    table = Table("texts a batch", "peak memory", "texts/s", "", title_justify="left")
    table.title = f"profile {conf.profile}, accelerator {conf.settings.accelerator}"
    console, trials = Console(), []
    with console.status("trying") as status:
        for trial in try_sizes(
            conf.settings,
            _texts(conf.settings),
            token_cache=store.path("token_cache"),
            hidden_cache=store.path("hidden_states"),
            limit=limit,
            memory_share=memory_share,
        ):
            trials.append(trial)
            memory = "" if trial.peak_bytes is None else f"{trial.peak_bytes / 2**30:.2f} GiB"
            speed = "" if trial.texts_per_second is None else f"{trial.texts_per_second:.0f}"
            table.add_row(str(trial.size), memory, speed, trial.problem or "")
            status.update(f"tried {trial.size}")
    console.print(table)
    best = largest(trials)
    console.print(f"largest that fits: training.queries_per_batch: {best}")
    if write:
        path = config.shipped_with() / "conf" / "profiles" / f"{conf.profile}.yaml"
        write_batch(path, best)
        console.print(f"written to {path}")


def _texts(settings: config.Settings) -> "dict[str, pl.DataFrame]":
    """What training reads of the taxonomy: as materialized, else from the source."""
    import polars as pl

    from naics_pipeline.taxonomy import census, text

    store = Store(settings.data_dir)
    files = {"descriptions": "descriptions", "index_entries": "index_entries", "phrases": "activity_phrases"}
    if all(store.exists(f"{file}.parquet") for file in files.values()):
        return {name: pl.read_parquet(store.local(f"{file}.parquet")) for name, file in files.items()}
    books = census.read_source(settings.source, settings.vintage, settings.download, store.path("source"))
    shares = settings.taxonomy
    entries = text.index_entries(books, shares.held_out_fraction, shares.validation_fraction)
    descriptions = text.descriptions(books, entries)
    phrases = text.activity_phrases(books, descriptions, entries)
    return {"descriptions": descriptions, "index_entries": entries, "phrases": phrases}
