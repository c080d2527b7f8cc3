"""The stores of the action cache, opened as the settings compose them."""

from __future__ import annotations

from contextlib import AsyncExitStack

from gridwright.blobs.remote import RemoteStore
from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError
from gridwright.instances import Instances
from gridwright.store_settings.leaves import (
    FilesystemStoreSettings,
    GrpcStoreSettings,
    LmdbStoreSettings,
    MemoryStoreSettings,
    NoopStoreSettings,
    RefStoreSettings,
)
from gridwright.store_settings.named_stores import NamedStores
from gridwright.store_settings.policy import Durability
from gridwright.store_settings.store import (
    CompletenessCheckingStoreSettings,
    ExpiringStoreSettings,
    FastSlowStoreSettings,
    MeteredStoreSettings,
    ReadOnlyStoreSettings,
    SizePartitioningStoreSettings,
    StoreSettings,
    WriteOnceStoreSettings,
)
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright_actioncache.metrics import CompletenessCollector, ResultStoreMetrics
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.expiring import ExpiringResultStore
from gridwright_actioncache.results.fast_slow import FastSlowResultStore
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.metered import MeteredResultStore
from gridwright_actioncache.results.noop import NoopResultStore
from gridwright_actioncache.results.read_only import ReadOnlyResultStore
from gridwright_actioncache.results.size_partitioned import SizePartitionedResultStore
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.write_once import WriteOnceResultStore

#: A CAS that restarts is back by then; a client would rather build than wait longer.
_CAS_SECONDS = 5.0
#: For a Tree that is larger than a message.
_TREE_SECONDS = 30.0


class Composition:
    """Opens stores, those with a name once, each of which is closed with *stack*.

    Args:
        stores: the list `stores`.
        instances: who the CAS is asked for.
        cas: where the CAS is, unless a store says otherwise.
        metrics: where stores tell how they are used.
    """

    def __init__(
        self, stores: NamedStores, instances: Instances, cas: str, metrics: ResultStoreMetrics, stack: AsyncExitStack
    ) -> None:
        self._stores = stores
        self._instances = instances
        self._cas = cas
        self._metrics = metrics
        self._stack = stack
        self._clock = SystemClock()
        self._opened: dict[str, ResultStore] = {}

    async def open(self, settings: StoreSettings) -> ResultStore:
        """Return the store that *settings* describe.

        Raises:
            ConfigurationError: a directory cannot be used.
        """
        match settings.variant:
            case MemoryStoreSettings() as memory:
                return MemoryResultStore(policy=memory.eviction_policy.policy, clock=self._clock)
            case FilesystemStoreSettings() as files:
                return await self._open_files(files)
            case LmdbStoreSettings() as lmdb:
                return await self._open_lmdb(lmdb)
            case NoopStoreSettings():
                return NoopResultStore()
            case RefStoreSettings() as reference:
                return await self._open_named(reference.name)
            case CompletenessCheckingStoreSettings() as checking:
                return await self._open_checking(checking)
            case FastSlowStoreSettings() as halves:
                return await self._open_fast_slow(halves)
            case SizePartitioningStoreSettings() as parts:
                lower, upper = await self.open(parts.lower_store), await self.open(parts.upper_store)
                return SizePartitionedResultStore(lower, upper, size_bytes=parts.size)
            case ReadOnlyStoreSettings() as read_only:
                return ReadOnlyResultStore(await self.open(read_only.backend))
            case WriteOnceStoreSettings() as once:
                return WriteOnceResultStore(await self.open(once.backend))
            case ExpiringStoreSettings() as expiring:
                return await self._open_expiring(expiring)
            case MeteredStoreSettings() as metered:
                return MeteredResultStore(await self.open(metered.backend), self._metrics.recorder(metered.name))
            case _:
                raise ConfigurationError(f"the action cache has no store {settings.kind}")

    async def _open_named(self, name: str) -> ResultStore:
        if name not in self._opened:
            self._opened[name] = await self.open(self._stores[name])
        return self._opened[name]

    async def _open_files(self, settings: FilesystemStoreSettings) -> ResultStore:
        from gridwright_actioncache.results.filesystem import FilesystemResultStore

        opening = FilesystemResultStore.opened(
            settings.content_path,
            self._clock,
            policy=settings.eviction_policy.policy,
            temp_path=settings.temp_path,
            durable=settings.durability is Durability.FULL,
        )
        return await self._stack.enter_async_context(opening)

    async def _open_lmdb(self, settings: LmdbStoreSettings) -> ResultStore:
        from gridwright_actioncache.results.lmdb_store import LmdbStore

        opening = LmdbStore.open(settings.path, max_bytes=settings.max_bytes, clock=self._clock)
        return await self._stack.enter_async_context(opening)

    async def _open_fast_slow(self, settings: FastSlowStoreSettings) -> ResultStore:
        return FastSlowResultStore(
            await self.open(settings.fast),
            await self.open(settings.slow),
            self._clock,
            fast_direction=settings.fast_direction,
            slow_direction=settings.slow_direction,
        )

    async def _open_expiring(self, settings: ExpiringStoreSettings) -> ResultStore:
        return ExpiringResultStore(
            await self.open(settings.backend),
            self._clock,
            max_seconds=settings.max_seconds,
            jitter_seconds=settings.jitter_seconds,
            minimum_timestamp=settings.minimum_unix_seconds,
        )

    async def _open_checking(self, settings: CompletenessCheckingStoreSettings) -> ResultStore:
        inner = await self.open(settings.backend)
        # A `ref_store` is a store of the CAS, which is another service: it is asked where it listens.
        cas = settings.cas_store.grpc if settings.cas_store else None
        channel = RetryingChannel(await self._stack.enter_async_context(GrpcChannel(_target(cas) or self._cas)))
        blobs = {
            instance.name: RemoteStore(
                channel,
                _instance_name(cas, instance.name),
                timeout_seconds=_CAS_SECONDS,
                stream_timeout_seconds=_TREE_SECONDS,
            )
            for instance in self._instances
        }
        store = CompletenessCheckingStore(inner, blobs)
        self._stack.push_async_callback(store.aclose)
        self._metrics.registry.register(CompletenessCollector(store))
        return store


def _target(cas: GrpcStoreSettings | None) -> str:
    return cas.endpoints[0].address if cas else ""


def _instance_name(cas: GrpcStoreSettings | None, ours: str) -> str:
    return ours if cas is None or cas.instance_name is None else cas.instance_name
