"""`naics`: look at the settings, measure any embeddings file, find the codes for a code or for free text.

A module here is a group of commands: a `typer.Typer` called `app` that joins `GROUPS`.
"""

import typer
from rich.console import Console

from naics_pipeline.cli import evaluation, runs, search, settings, taxonomy, training, viewers
from naics_pipeline.errors import NaicsError

GROUPS = (settings, evaluation, runs, search, viewers, training, taxonomy)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Look at the settings, measure any embeddings file, find the codes for a code or for free text.",
)
for group in GROUPS:
    app.add_typer(group.app)


def main() -> None:
    """Entry point: an error made on purpose is shown as one message, without a traceback."""
    try:
        app()
    except NaicsError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise SystemExit(1) from None
