"""`gridwright up`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from gridwright.errors import ConfigurationError
from gridwright.instances import InstanceSettings
from gridwright.settings import MAX_SLOTS
from gridwright_cli.exits import EXIT_USAGE, complain
from gridwright_cli.up.console import Console
from gridwright_cli.up.data_directory import DataDirectory
from gridwright_cli.up.grid_file import GRID_FILE, grid_yaml
from gridwright_cli.up.leftovers import end_leftovers
from gridwright_cli.up.options import UpOptions, check_options, check_ports
from gridwright_cli.up.services import SERVICES
from gridwright_cli.up.supervisor import run_grid

#: Services of a killed `gridwright up` are ending already when the next one starts.
_LEFTOVERS_SECONDS = 10.0

Port = Annotated[int, typer.Option(min=1, max=65535, help="Where clients connect (gRPC).")]
ConsolePort = Annotated[int, typer.Option(min=1, max=65535, help="Where the console's pages are (HTTP).")]


def up(
    data: Annotated[Path, typer.Option(help="Where the grid keeps all its state.")] = Path(".gridwright"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 50051,
    console_port: ConsolePort = 8080,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SLOTS, help="How many actions run at once.", show_default="one per core"),
    ] = None,
    instance: Annotated[str, typer.Option(help="The name of the instance.")] = "main",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in, all of them and with every right.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings file and start nothing.")
    ] = False,
) -> None:
    """Run a whole grid on this machine, until Ctrl-C.

    All services run as processes of their own, with their state in the data directory. Several
    grids can run side by side with directories and ports of their own.

    Exit status: 0 after Ctrl-C or SIGTERM; 2 if it cannot start; 78 if a service cannot use its settings.
    """
    options = UpOptions(data, host, port, console_port, slots, instance, insecure)
    if print_config:
        typer.echo(grid_yaml(options), nl=False)
        return
    try:
        status = _up(options)
    except ConfigurationError as error:
        complain(str(error))
        status = EXIT_USAGE
    raise typer.Exit(status)


def _up(options: UpOptions) -> int:
    check_options(options)
    try:
        InstanceSettings(name=options.instance)
    except ValueError as error:
        raise ConfigurationError(f"--instance {options.instance}: {error}") from None
    data = DataDirectory(options.data)
    with data.locked(), Console() as console:
        sessions = [pid for service in SERVICES if (pid := data.noted_pid(service.name))]
        if ended := end_leftovers(sessions, data.path, patience_seconds=_LEFTOVERS_SECONDS):
            console.say(f"ended {ended} processes that a killed `gridwright up` had left here")
        check_ports(options)
        data.write(GRID_FILE, grid_yaml(options))
        # The services' sockets have paths relative to it, as the kernel allows them 107 bytes only.
        os.chdir(data.path)
        console.say(f"starting in {data.path}")
        return asyncio.run(run_grid(options, data, console))
