"""The commands of `gridwright ac`."""

from __future__ import annotations

import typer

from gridwright_cli.ac.get import get
from gridwright_cli.ac.purge import purge
from gridwright_cli.ac.rm import rm
from gridwright_cli.ac.why import why

ac = typer.Typer(
    help="Look into an action cache, of an endpoint or in a directory, and revoke what is wrong in it.",
    no_args_is_help=True,
)
for command in (get, why, rm, purge):
    ac.command()(command)
