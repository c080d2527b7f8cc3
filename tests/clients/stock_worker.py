"""A stock buildbox-worker in a process of its own, and a line to the scheduler that can be cut."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from tests.clients.client_tree import ClientTree
from tests.journeys.grid import Grid, free_ports

WORKER = "stock-worker"
PLATFORM = ("OSFamily=linux", "ISA=x86-64")
#: Our own worker is for something else, so whatever runs has run on the stock one.
OURS_IS_FOR_OTHERS = {"GRIDWRIGHT_WORKER__PLATFORM": "{OSFamily: [none]}"}
_STOP_SECONDS = 20.0


class StockWorker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def is_alive(self) -> bool:
        """Whether it has not exited."""
        return self.process.poll() is None

    def log(self) -> str:
        """Return what it said."""
        return self._log.read_text(errors="replace")

    async def ended(self, seconds: float) -> int:
        """Return its exit status once it has one."""
        return await asyncio.to_thread(self.process.wait, seconds)


@asynccontextmanager
async def stock_worker(
    tree: ClientTree,
    grid: Grid,
    directory: Path,
    *options: str,
    jobs: int = 2,
    platform: Sequence[str] = PLATFORM,
    bots_remote: str = "",
) -> AsyncIterator[StockWorker]:
    """Run a stock worker beside our own while the block runs."""
    remote = bots_remote or f"unix:{grid.data}/run/scheduler.sock"
    command = [
        *("buildbox-worker", f"--bots-remote={remote}", "--bots-instance=main"),
        *(f"--cas-remote=http://{grid.endpoint}", "--cas-instance=main"),
        *("--buildbox-run=/usr/bin/buildbox-run-hosttools", "--runner-arg=--disable-localcas"),
        *(word for pair in platform for word in ("--platform", pair)),
        *(f"--concurrent-jobs={jobs}", "--log-level=warning", *options, WORKER),
    ]
    log = directory / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  # tests wait for it in threads, and only while they want to
            [*tree.entered_at(directory), *command], stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield StockWorker(process, log)
    finally:
        process.terminate()
        try:
            # A line to the scheduler needs this loop to let the worker's farewell through.
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(log.read_text(errors="replace"))


class Line:
    """A TCP port behind which the scheduler is; when the line is cut, it answers UNAVAILABLE to everything.

    As a gateway does. If nobody were there at all, gRPC would try to connect again ever more seldom.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._port = free_ports(1)[0]
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._nobody: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """What a client connects to."""
        return f"http://127.0.0.1:{self._port}"

    async def mend(self) -> None:
        """Let connections through from now on."""
        await self.close()
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """End all connections, and let nothing through."""
        await self.close()
        self._nobody = grpc.aio.server(handlers=[_Nobody()], options=[("grpc.so_reuseport", 0)])
        self._nobody.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._nobody.start()

    async def close(self) -> None:
        """End all connections, and listen no more."""
        if self._server is not None:
            self._server.close()
            for end in list(self._ends):
                end.transport.abort()
            self._server = None
        if self._nobody is not None:
            await self._nobody.stop(None)
            self._nobody = None

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._ends -= {writer, far_writer}


class _Nobody(grpc.GenericRpcHandler):
    """Is not available."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: bytes, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "the scheduler is away")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def line_to_scheduler(grid: Grid) -> AsyncIterator[Line]:
    """Yield a line that is whole, and cut at the end."""
    line = Line(grid.data / "run" / "scheduler.sock")
    await line.mend()
    try:
        yield line
    finally:
        await line.close()


async def wait_until(condition: object, seconds: float) -> float:
    """Wait for a condition of other processes, of which nobody tells us; return how long it took."""
    assert callable(condition)
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "waited in vain"
        await asyncio.sleep(0.01)
    return time.monotonic() - begun
