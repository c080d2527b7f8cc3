"""The commands of `gridwright cas`."""

from __future__ import annotations

import typer

from gridwright_cli.cas.compact import compact
from gridwright_cli.cas.get import get
from gridwright_cli.cas.ls import ls
from gridwright_cli.cas.put import put
from gridwright_cli.cas.rm import rm
from gridwright_cli.cas.stats import stats
from gridwright_cli.cas.verify import verify

cas = typer.Typer(
    help="Look after stored blobs: those in a store's directory, or those of an endpoint.", no_args_is_help=True
)
for command in (stats, verify, compact, ls, get, put, rm):
    cas.command()(command)
