"""A scheduler with the CAS and the action cache that it calls, each a process, for the time of a benchmark."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cas_process import CasProcess, own_cas
from bench.postgresql import PostgresqlProcess, own_postgresql
from bench.service_process import ServiceProcess, own_service

DATABASES = ("postgresql", "sqlite")
_CACHE_MODULE = "gridwright_actioncache"
_CACHE_SETTINGS = """\
endpoints: {{cas: "{cas}"}}
actioncache:
  listen: unix:actioncache.sock
  admin: unix:admin-{module}-0.sock
  store: {{completeness_checking: {{backend: {{lmdb: {{path: results}}}}}}}}
"""
_MODULE = "gridwright_scheduler"
_SETTINGS = """\
endpoints: {{cas: "{cas}", actioncache: "unix:{data}/actioncache.sock"}}
scheduler:
  listen: unix:scheduler.sock
  admin: unix:admin-{module}-0.sock
  database: {{url: "{url}", migrate: auto}}
  max_queued: 1000000
  no_worker_grace_seconds: 86400
  abandon_after_seconds: 0
"""


@dataclass(frozen=True, slots=True)
class SchedulerProcess:
    """A scheduler that runs, and the processes behind it."""

    service: ServiceProcess
    cas: CasProcess
    action_cache: ServiceProcess
    #: None: it keeps its state in SQLite.
    postgresql: PostgresqlProcess | None
    data: Path

    @property
    def endpoint(self) -> str:
        """Where its gRPC is served."""
        return f"unix:{self.data / 'scheduler.sock'}"


@asynccontextmanager
async def own_scheduler(data: Path, database: str) -> AsyncIterator[SchedulerProcess]:
    """Run one on *database*, one of ``DATABASES``, in *data*, a directory with a short path, while the block runs."""
    async with AsyncExitStack() as stack:
        postgresql = await stack.enter_async_context(own_postgresql()) if database == "postgresql" else None
        cas = await stack.enter_async_context(own_cas(data, "segments"))
        cache_settings = _CACHE_SETTINGS.format(cas=cas.endpoint, module=_CACHE_MODULE)
        action_cache = await stack.enter_async_context(own_service(_CACHE_MODULE, data, cache_settings))
        url = "sqlite:///scheduler.db" if postgresql is None else postgresql.url
        settings = _SETTINGS.format(cas=cas.endpoint, data=data, url=url, module=_MODULE)
        service = await stack.enter_async_context(own_service(_MODULE, data, settings))
        yield SchedulerProcess(service, cas, action_cache, postgresql, data)
