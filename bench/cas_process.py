"""One CAS service with a store of our choice, for the time of a benchmark."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

INSTANCE = "main"
#: The leaves that the benchmarks of the CAS compare; each is checked by `verify`.
STORES = ("filesystem", "segments", "memory")
_SETTINGS = """\
cas:
  listen: unix:cas{number}.sock
  admin: unix:admin{number}.sock
  store: {{verify: {{backend: {{{store}: {keys}}}}}}}
"""
_MAX_BYTES = 20_000_000_000
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_ASK_EVERY_SECONDS = 0.01
#: The log goes with the directory, so what it says of a failure is shown.
_LOG_CHARACTERS = 2000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CasProcess:
    """A CAS that runs, reached past any gateway."""

    #: Of its store: a key of ``STORES``.
    name: str
    endpoint: str
    pid: int
    #: From the start of the process until it said that it is ready.
    ready_seconds: float

    def cpu_seconds(self) -> float:
        """Return the processor time that it has taken so far, in all its threads."""
        # The fields after the command, which may hold anything but is in brackets.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def anonymous_bytes(self) -> int:
        """Return the memory that it has of its own (``RssAnon``): the page cache's pages are not in it."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def content_path(data: Path) -> Path:
    """Return where a CAS in *data* keeps the blobs of its only instance."""
    return data / "blobs" / INSTANCE


@asynccontextmanager
async def own_cas(
    data: Path, store: str, *, max_bytes: int = _MAX_BYTES, scrub: bool = True, number: int = 0
) -> AsyncIterator[CasProcess]:
    """Run the service in *data*, a directory with a short path, while the block runs.

    Args:
        store: one of ``STORES``; on a disk it is ``content_path(data)``.
        scrub: whether a store of segments reads in the background what it keeps.
        number: of this process, where several use one *data*.

    Raises:
        SystemExit: it does not get ready; the text has the end of its log.
    """
    keys = f"{{eviction_policy: {{max_bytes: {max_bytes}}}" + ("" if store == "memory" else ", content_path: blobs")
    keys += "}" if scrub else ", scrub_bytes_per_second: 0}"
    config = data / f"grid{number}.yaml"
    config.write_text(_SETTINGS.format(store=store, keys=keys, number=number))
    log = data / f"cas{number}.log"
    begun = time.perf_counter()
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gridwright_cas", "--config", config.name), cwd=data, stdout=output, stderr=output
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _until_ready(process, data / f"admin{number}.sock", log)
            yield CasProcess(store, f"unix:{data / f'cas{number}.sock'}", process.pid, time.perf_counter() - begun)
        except TimeoutError:
            sys.exit(f"the CAS was not ready after {_START_SECONDS:.0f} s:\n{_end_of(log)}")
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()


@asynccontextmanager
async def own_cas_processes(data: Path, store: str) -> AsyncIterator[Sequence[CasProcess]]:
    """Run as many processes on one *data* as *store* says (``segments*2``), while the block runs; see ``own_cas``."""
    name, _, count = store.partition("*")
    async with AsyncExitStack() as stack:
        numbers = range(int(count or 1))
        yield [await stack.enter_async_context(own_cas(data, name, number=number)) for number in numbers]


async def _until_ready(process: asyncio.subprocess.Process, admin: Path, log: Path) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(admin))) as client:
        while process.returncode is None:
            try:
                if (await client.get("http://cas/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(_ASK_EVERY_SECONDS)
    sys.exit(f"the CAS ended before it was ready:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:]
