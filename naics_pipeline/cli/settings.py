"""Settings: `config`."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from naics_pipeline import config
from naics_pipeline.cli.common import Profile, Set, overrides

app = typer.Typer()


@app.command("config", epilog="Examples: naics config · naics config data_dir · naics config --profile cpu")
def show_config(
    key: Annotated[str | None, typer.Argument(help="Print the value of this setting alone.")] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """The effective settings and where each one came from."""
    loaded = config.load(profile, overrides(set_))
    values = loaded.flat()
    if key is not None:
        if key not in values:
            config.refuse_unknown(key, "naics config")
        typer.echo(_plain(values[key]))
        return
    table = Table(title=f"profile {loaded.profile}", title_justify="left")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, value in values.items():
        origin = loaded.origins[name]
        table.add_row(name, _plain(value), origin, style="dim" if origin == "default" else None)
    Console().print(table)


def _plain(value: object) -> str:
    """A setting as it is written in a file."""
    return value if isinstance(value, str) else json.dumps(value)
