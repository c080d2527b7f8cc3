"""One service in a process of its own, for the time of a benchmark."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_ASK_EVERY_SECONDS = 0.01
#: The log goes with the directory, so what it says of a failure is shown.
_LOG_CHARACTERS = 2000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A service that runs."""

    pid: int
    #: Those that it has started to serve in its place, if any.
    children: Sequence[int]
    #: The socket of its admin port.
    admin: Path
    #: From the start of the process until it said that it is ready.
    ready_seconds: float

    def cpu_seconds(self) -> float:
        """Return the processor time that it has taken so far, in all its threads and children."""
        return sum(cpu_seconds(pid) for pid in (self.pid, *self.children))

    def anonymous_bytes(self) -> int:
        """Return the memory that it and its children have of their own (``RssAnon``); the page cache is not in it."""
        return sum(_anonymous_bytes(pid) for pid in (self.pid, *self.children))

    async def metrics(self) -> str:
        """Return what it says on /metrics."""
        async with _client(self.admin) as client:
            return (await client.get("http://service/metrics")).text

    async def status(self) -> dict[str, Any]:
        """Return what it says on /status."""
        return await _status(self.admin)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the process *pid* has taken so far, in all its threads."""
    # The fields after the command, which may hold anything but is in brackets.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


@asynccontextmanager
async def own_service(module: str, data: Path, settings: str, *, number: int = 0) -> AsyncIterator[ServiceProcess]:
    """Run ``python -m module`` in *data* with *settings* while the block runs.

    Args:
        settings: YAML, which says that the admin port is ``unix:admin-MODULE-NUMBER.sock``.
        number: of this process, where several of a module use one *data*.

    Raises:
        SystemExit: it does not get ready; the text has the end of its log.
    """
    name = f"{module}-{number}"
    config, log, admin = data / f"{name}.yaml", data / f"{name}.log", data / f"admin-{name}.sock"
    config.write_text(settings)
    begun = time.perf_counter()
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--config", config.name), cwd=data, stdout=output, stderr=output
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _until_ready(process, admin, log)
            ready_seconds = time.perf_counter() - begun
            children = [one["pid"] for one in (await _status(admin)).get("processes", {}).values()]
            yield ServiceProcess(process.pid, children, admin, ready_seconds)
        except TimeoutError:
            sys.exit(f"{module} was not ready after {_START_SECONDS:.0f} s:\n{_end_of(log)}")
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, admin: Path, log: Path) -> None:
    async with _client(admin) as client:
        while process.returncode is None:
            try:
                if (await client.get("http://service/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(_ASK_EVERY_SECONDS)
    sys.exit(f"the service ended before it was ready:\n{_end_of(log)}")


async def _status(admin: Path) -> dict[str, Any]:
    async with _client(admin) as client:
        status: dict[str, Any] = (await client.get("http://service/status")).json()
        return status


def _anonymous_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _client(admin: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(admin)))


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:]
