"""The action cache, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.remote import RemoteStore
from gridwright.clock import SystemClock
from gridwright.instances import Instances
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_actioncache.config import (
    ActionCacheFile,
    CompletenessCheckingSettings,
    LmdbSettings,
    MemorySettings,
    StoreSettings,
)
from gridwright_actioncache.metrics import CompletenessCollector
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.lmdb_store import LmdbStore
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.servicers.actioncache import ActionCacheServicer

#: A CAS that restarts is back by then; a client would rather build than wait longer.
_CAS_SECONDS = 5.0
#: For a Tree that is larger than a message.
_TREE_SECONDS = 30.0


@asynccontextmanager
async def open_app(settings: ActionCacheFile, process: Process) -> AsyncIterator[None]:
    """Serve the action cache while the block runs.

    Raises:
        ConfigurationError: the store cannot be opened, or an address is in use.
    """
    actioncache = settings.actioncache
    instances = Instances(settings.instances)
    options = ServerOptions(
        listen=[actioncache.listen],
        authenticator=LoopbackAuthenticator(trust_network=settings.auth.trust_network),
        registry=process.registry,
        drain_seconds=actioncache.drain_seconds,
    )
    async with AsyncExitStack() as stack:
        stores = _Stores(instances, settings.endpoints.cas, process.registry, stack)
        results = await stores.open(actioncache.store)

        async def status() -> Mapping[str, object]:
            return {"store": repr(results)}

        servicers: list[Servicer] = [ActionCacheServicer(instances, results), CapabilitiesServicer(instances)]
        await stack.enter_async_context(serving(servicers, options))
        await stack.enter_async_context(process.admin("actioncache", actioncache.admin, status))
        yield


class _Stores:
    """Opens stores, each of which is closed with *stack*."""

    def __init__(self, instances: Instances, cas: str, registry: CollectorRegistry, stack: AsyncExitStack) -> None:
        self._instances = instances
        self._cas = cas
        self._registry = registry
        self._stack = stack

    async def open(self, settings: StoreSettings) -> ResultStore:
        match settings.variant:
            case MemorySettings() as memory:
                return MemoryResultStore(max_count=memory.max_count)
            case LmdbSettings() as lmdb:
                opening = LmdbStore.open(lmdb.path, max_bytes=lmdb.max_bytes, clock=SystemClock())
                return await self._stack.enter_async_context(opening)
            case CompletenessCheckingSettings() as checking:
                return await self._open_checking(await self.open(checking.backend))

    async def _open_checking(self, inner: ResultStore) -> ResultStore:
        channel = RetryingChannel(await self._stack.enter_async_context(GrpcChannel(self._cas)))
        blobs = {
            instance.name: RemoteStore(
                channel, instance.name, timeout_seconds=_CAS_SECONDS, stream_timeout_seconds=_TREE_SECONDS
            )
            for instance in self._instances
        }
        store = CompletenessCheckingStore(inner, blobs)
        self._stack.push_async_callback(store.aclose)
        self._registry.register(CompletenessCollector(store))
        return store
