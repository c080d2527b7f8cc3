"""The store in a directory, whichever kind has made it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError
from gridwright_actioncache.results.filesystem import FilesystemResultStore
from gridwright_actioncache.results.lmdb_store import LmdbStore
from gridwright_actioncache.results.store import ResultStore

#: Nothing is to be evicted here, whatever bound the service has.
_NO_BOUND_BYTES = 2**60


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[ResultStore]:
    """Open the store in *path* while the block runs; a service may use it meanwhile if it is LMDB's.

    Raises:
        ConfigurationError: there is none, or it cannot be used.
    """
    clock = SystemClock()
    if (path / "data.mdb").is_file():
        async with LmdbStore.open(path, max_bytes=_NO_BOUND_BYTES, clock=clock) as store:
            yield store
    elif (path / "lock").is_file():
        async with FilesystemResultStore.opened(path, clock, policy=EvictionPolicy()) as files:
            yield files
    else:
        raise ConfigurationError(
            f"{path} is no directory of an action cache: neither a data.mdb of lmdb nor the files of filesystem"
        )
