"""A grid of our own, for the time of a benchmark."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.target import Target

READY = "Gridwright is ready"
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0


@asynccontextmanager
async def own_grid(data: Path, *, port: int, console_port: int) -> AsyncIterator[Target]:
    """Run `gridwright up` on *data*, an absolute path, while the block runs; its log is ``bench-up.log`` in there.

    Raises:
        SystemExit: it does not get ready; the text says where to read why.
    """
    log = data / "bench-up.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gridwright_cli", "up", "--data", str(data)),
            *("--port", str(port), "--console-port", str(console_port)),
            stdout=PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _until_ready(process.stdout, log)
            # Nobody wants to know what else it says, but the pipe must not fill.
            reading = asyncio.create_task(_discard(process.stdout))
            yield Target(
                "gridwright",
                f"127.0.0.1:{port}",
                "main",
                direct_cas=f"unix:{data / 'run' / 'cas.sock'}",
                data=data,
            )
            reading.cancel()
        except TimeoutError:
            sys.exit(f"the grid was not ready after {_START_SECONDS:.0f} s; see {log}")
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_SECONDS):
                await process.communicate()


async def _until_ready(output: asyncio.StreamReader, log: Path) -> None:
    async for line in output:
        if line.decode(errors="replace").startswith(READY):
            return
    sys.exit(f"the grid ended before it was ready; see {log}")


async def _discard(output: asyncio.StreamReader) -> None:
    while await output.read(65536):
        pass
