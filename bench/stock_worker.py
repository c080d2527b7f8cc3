"""No-op actions in a row on one slot of a stock buildbox-worker: `python -m bench.stock_worker --data DIRECTORY`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.grid import own_grid
from bench.noop_actions import bench_noop_actions

#: What tells the stock worker from our own, which runs beside it.
_PLATFORM = ("runner", "stock")
_STOP_SECONDS = 20.0


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.stock_worker", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="an empty directory for the grid")
    parser.add_argument("--worker", default="buildbox-worker", help="the command that starts a worker")
    parser.add_argument("--runner", default="/usr/bin/buildbox-run-hosttools", help="the worker's runner")
    parser.add_argument("--actions", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--port", type=int, default=18980)
    arguments = parser.parse_args()
    arguments.data = arguments.data.absolute()
    arguments.data.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_bench(arguments))


async def _bench(arguments: argparse.Namespace) -> None:
    async with own_grid(arguments.data, port=arguments.port, console_port=arguments.port + 1) as target:
        command = [
            *shlex.split(arguments.worker),
            *(f"--bots-remote=http://{target.endpoint}", f"--bots-instance={target.instance}"),
            *(f"--cas-remote=http://{target.endpoint}", f"--cas-instance={target.instance}"),
            *(f"--buildbox-run={arguments.runner}", "--runner-arg=--disable-localcas"),
            *("--platform", "=".join(_PLATFORM), "--concurrent-jobs=1", "--log-level=error", "stock"),
        ]
        async with _running(command, arguments.data / "bench-worker.log"):
            stock = replace(target, name="stock worker", platform=(_PLATFORM,))
            await bench_noop_actions([stock], count=arguments.actions, in_flight=1, repeat=arguments.repeat)


@asynccontextmanager
async def _running(command: Sequence[str], log: Path) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()


if __name__ == "__main__":
    main()
