"""Runs the services of a grid together, from their start to their orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gridwright_cli.up import launch
from gridwright_cli.up.announcement import announcement
from gridwright_cli.up.console import Console
from gridwright_cli.up.data_directory import DataDirectory
from gridwright_cli.up.grid_file import GRID_FILE
from gridwright_cli.up.keeper import Keeper, Running, ServiceGaveUp
from gridwright_cli.up.options import UpOptions
from gridwright_cli.up.readiness import Readiness
from gridwright_cli.up.service_process import ServiceProcess
from gridwright_cli.up.services import SERVICES, STOP_ORDER, Service

#: How often the user hears what a start still waits for.
_REPORT_SECONDS = 10.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """The user's wish to stop, and, said again, to do so quickly."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    def again(self) -> None:
        """Hear the wish once more."""
        (self.hurry if self.stop.is_set() else self.stop).set()


async def run_grid(options: UpOptions, data: DataDirectory, console: Console) -> int:
    """Run the grid in this process's working directory, which is *data*; return the exit status.

    Returns once the user has asked to stop (0), or a service cannot run (its status).
    """
    requests = StopRequests()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, requests.again)
    died = asyncio.Event()
    start = _starter(data, console)
    keepers = {service: Keeper(service, start, console.say, died) for service in SERVICES}
    keeping = {service: asyncio.create_task(keeper.keep()) for service, keeper in keepers.items()}
    announcing = asyncio.create_task(_announce(options, console, died))
    asked = asyncio.create_task(requests.stop.wait())
    try:
        await asyncio.wait({*keeping.values(), announcing, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        announcing.cancel()
        asked.cancel()
        by_request = requests.stop.is_set()
        requests.stop.set()
        if by_request:
            console.say("stopping; once more to be quick about it")
        for service in STOP_ORDER:
            await keepers[service].stop(requests.hurry)
            data.forget_pid(service.name)
    results = await asyncio.gather(*keeping.values(), announcing, asked, return_exceptions=True)
    return _verdict(results, console)


def _verdict(results: Sequence[object], console: Console) -> int:
    for result in results:
        if isinstance(result, ServiceGaveUp):
            console.say(f"{result}, see its last lines; the grid is stopped")
            return result.status
        if isinstance(result, Exception):
            raise result
    console.say("stopped")
    return 0


def _starter(data: DataDirectory, console: Console) -> Callable[[Service], Running]:
    def start(service: Service) -> Running:
        process = ServiceProcess(service_command(service), console.line_of(service))
        try:
            data.note_pid(service.name, process.pid)
        except OSError as error:
            # A full disk, say: a grid that runs without the note is better than one that ends.
            console.say(f"cannot note the pid of {service.name}: {error.strerror}")
        return process

    return start


def service_command(service: Service) -> Sequence[str]:
    """Return the command that becomes *service* (see ``launch``); the data directory is where it must run."""
    launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve()), str(os.getpid())]
    return [*launcher, sys.executable, "-m", service.module, "--config", GRID_FILE]


async def _announce(options: UpOptions, console: Console, died: asyncio.Event) -> None:
    """Say when the grid is ready, and after a death when it is so again."""
    first = True

    def report(lacking: Mapping[str, str]) -> None:
        for name, what in lacking.items():
            console.say(f"still waiting for {name}: {what}")

    while True:
        died.clear()
        async with Readiness(options) as readiness:
            await readiness.wait(report, every_seconds=_REPORT_SECONDS)
        if first:
            console.show(announcement(options))
        elif not died.is_set():
            console.say("all services are well again")
        first = False
        await died.wait()
