"""What became of the classification: `crosswalk`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides
from naics_pipeline.errors import SettingsError
from naics_pipeline.storage import Store

app = typer.Typer()


@app.command(epilog="Examples: naics crosswalk 2017 2022 --out crosswalk.csv · naics crosswalk 2017 2022 --truth c.csv")
def crosswalk(
    old: Annotated[int, typer.Argument(help="Vintage that is left, such as 2017.")],
    new: Annotated[int, typer.Argument(help="Vintage that takes over, such as 2022.")],
    out: Annotated[Path | None, typer.Option(help="CSV or Parquet file to write, a row a pair of codes.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="CSV of a published concordance (columns old, new) to be measured on.")
    ] = None,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a code's activities that makes another a candidate.")
    ] = 0.05,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Where the activities of each code went: kept, renamed, split or merged. Reads both vintages of the source."""
    from naics_pipeline.taxonomy import census
    from naics_pipeline.taxonomy.crosswalk import IDENTICAL, agreement, read_truth
    from naics_pipeline.taxonomy.crosswalk import crosswalk as make

    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise SettingsError(f"{out}: neither CSV nor Parquet by its name; end it in .csv or .parquet.")
    settings = config.load(profile, overrides(set_)).settings
    cache = Store(settings.data_dir).path("source")
    before, after = (census.read_source(settings.source, year, settings.download, cache) for year in (old, new))
    found = make(before, after, least)
    codes = found.unique("old_code", keep="first", maintain_order=True)
    counts = Table("digits", *sorted(set(codes["kind"])), title=f"NAICS {old} to {new}, codes", title_justify="left")
    for digits, of_level in codes.group_by(codes["old_code"].str.len_chars().alias("digits"), maintain_order=True):
        kinds = dict(of_level["kind"].value_counts().iter_rows())
        counts.add_row(str(digits[0]), *(str(kinds.get(kind, 0)) for kind in sorted(set(codes["kind"]))))
    Console().print(counts)
    if out is None:
        changed = found.filter((found["kind"] != IDENTICAL) & (found["old_code"].str.len_chars() == 6))
        listed = Table("old", "new", "kind", "share", "sure", "why")
        for row in changed.iter_rows(named=True):
            why = f"{row['entries']:.0f} of {row['entries_found']:.0f} entries; {row['reason']}"
            named = [f"{row[f'{side}_code']} {row[f'{side}_title']}" for side in ("old", "new")]
            listed.add_row(*named, row["kind"], f"{row['share']:.2f}", f"{row['confidence']:.2f}", why)
        Console().print(listed)
    else:
        found.write_csv(out) if out.suffix.lower() == ".csv" else found.write_parquet(out)
        typer.echo(f"{found.height:,} pairs in {out}.")
    if truth is not None:
        pairs = read_truth(truth, before.codes["code"].to_list(), after.codes["code"].to_list())
        measured = Table("measure", "value", title=str(truth), title_justify="left")
        for name, value in agreement(found, pairs).items():
            measured.add_row(name, f"{value:.4g}")
        Console().print(measured)
