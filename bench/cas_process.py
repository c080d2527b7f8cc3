"""A CAS service with a store of our choice, for the time of a benchmark."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.service_process import ServiceProcess, own_service

INSTANCE = "main"
#: The leaves that the benchmarks of the CAS compare; each is checked by `verify`.
STORES = ("filesystem", "segments", "memory")
_MODULE = "gridwright_cas"
_SETTINGS = """\
cas:
  listen: {listen}
  admin: unix:admin-{module}-{number}.sock
  processes: {processes}
  store: {{verify: {{backend: {{{store}: {keys}}}}}}}
"""
_MAX_BYTES = 20_000_000_000


@dataclass(frozen=True, slots=True)
class CasProcess(ServiceProcess):
    """A CAS that runs, reached past any gateway."""

    #: Of its store, as it was asked for.
    name: str
    endpoint: str


def content_path(data: Path) -> Path:
    """Return where a CAS in *data* keeps the blobs of its only instance."""
    return data / "blobs" / INSTANCE


@asynccontextmanager
async def own_cas(
    data: Path, store: str, *, max_bytes: int = _MAX_BYTES, scrub: bool = True, number: int = 0
) -> AsyncIterator[CasProcess]:
    """Run the service in *data*, a directory with a short path, while the block runs.

    Args:
        store: one of ``STORES``; on a disk it is ``content_path(data)``. ``segments*2`` is two processes, which share
            that directory and a TCP port; one process has a Unix socket.
        scrub: whether a store of segments reads in the background what it keeps.
        number: of this service, where several use one *data*.

    Raises:
        SystemExit: it does not get ready; the text has the end of its log.
    """
    leaf, _, count = store.partition("*")
    processes = int(count or 1)
    listen = "127.0.0.1:0" if processes > 1 else f"unix:cas{number}.sock"
    keys = f"{{eviction_policy: {{max_bytes: {max_bytes}}}" + ("" if leaf == "memory" else ", content_path: blobs")
    keys += "}" if scrub else ", scrub_bytes_per_second: 0}"
    settings = _SETTINGS.format(
        store=leaf, keys=keys, number=number, module=_MODULE, listen=listen, processes=processes
    )
    async with own_service(_MODULE, data, settings, number=number) as service:
        endpoint = (await service.status())["listen"] if processes > 1 else f"unix:{data / f'cas{number}.sock'}"
        yield CasProcess(service.pid, service.children, service.admin, service.ready_seconds, store, endpoint)
