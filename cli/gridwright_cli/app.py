"""The commands of `gridwright`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright.version import VERSION
from gridwright_cli.ac.command import ac
from gridwright_cli.capabilities import capabilities
from gridwright_cli.cas.command import cas
from gridwright_cli.config.command import config
from gridwright_cli.execute.command import execute
from gridwright_cli.up.command import up
from gridwright_cli.why import why

app = typer.Typer(
    help="Gridwright: remote execution and caching for build tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gridwright {VERSION}")
        raise typer.Exit


@app.callback()
def gridwright(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Gridwright: remote execution and caching for build tools."""


app.command()(up)
# What follows the command's name is the command's own, also what looks like an option.
app.command(context_settings={"allow_interspersed_args": False})(execute)
app.command()(capabilities)
app.command()(why)
app.add_typer(ac, name="ac")
app.add_typer(cas, name="cas")
app.add_typer(config, name="config")
