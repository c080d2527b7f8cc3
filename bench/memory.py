"""How much memory the services of a grid have of their own while a benchmark runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SERVICES = ("cas", "actioncache", "scheduler", "worker", "gateway")
_EVERY_SECONDS = 0.2


@asynccontextmanager
async def watching(data: Path | None) -> AsyncIterator[dict[str, int]]:
    """Yield a mapping that holds, after the block, each process's largest anonymous memory in bytes.

    *data* is the data directory of a grid on this machine; of another one nothing is known.
    """
    peaks: dict[str, int] = {}
    watcher = asyncio.create_task(_watch(data, peaks)) if data else None
    try:
        yield peaks
    finally:
        if watcher:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _watch(data: Path, peaks: dict[str, int]) -> None:
    while True:
        for name, pid in _processes(data).items():
            peaks[name] = max(peaks.get(name, 0), _anonymous_bytes(pid))
        await asyncio.sleep(_EVERY_SECONDS)


def _processes(data: Path) -> dict[str, int]:
    """Return the process of each service, and Envoy, which the gateway's guardian started."""
    found: dict[str, int] = {}
    for service in SERVICES:
        try:
            found[service] = int((data / "run" / f"{service}.pid").read_text())
        except (OSError, ValueError):
            continue
    if gateway := found.get("gateway"):
        for envoy in (child for guardian in _children(gateway) for child in _children(guardian)):
            found["envoy"] = envoy
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
