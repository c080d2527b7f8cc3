"""The stores of the action cache, opened as the settings compose them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore
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
from gridwright.store_settings.redis import RedisStoreSettings
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
from gridwright.wire.rpc import Channel
from gridwright_actioncache.metrics import ResultStoreMetrics
from gridwright_actioncache.redis_metrics import RedisCollector
from gridwright_actioncache.remote_results import RemoteResultStore
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.dependency import DependencyHealth
from gridwright_actioncache.results.expiring import ExpiringResultStore
from gridwright_actioncache.results.fast_slow import FastSlowResultStore
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.metered import MeteredResultStore
from gridwright_actioncache.results.noop import NoopResultStore
from gridwright_actioncache.results.read_only import ReadOnlyResultStore
from gridwright_actioncache.results.size_partitioned import SizePartitionedResultStore
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.write_once import WriteOnceResultStore
from gridwright_actioncache.watched_channel import WatchedChannel

#: A CAS that restarts is back by then; a client would rather build than wait longer.
_CAS_SECONDS = 5.0
#: For a Tree that is larger than a message.
_TREE_SECONDS = 30.0
#: Likewise of another action cache: the question is whether to build.
_REMOTE_CACHE_SECONDS = 5.0


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
        self._redis = RedisCollector()
        self._opened: dict[str, ResultStore] = {}
        #: The CAS of each instance, once something has asked for it.
        self._blobs: Mapping[str, BlobStore] | None = None

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
            case RedisStoreSettings() as redis:
                return await self._open_redis(redis)
            case GrpcStoreSettings() as remote:
                return await self._open_remote(remote)
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

    async def open_cas(self) -> Mapping[str, BlobStore]:
        """Return the CAS of each instance: the one by which results are checked, by default that of the grid."""
        if self._blobs is None:
            self._blobs = await self._open_blobs(None)
        return self._blobs

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

    async def _open_redis(self, settings: RedisStoreSettings) -> ResultStore:
        from gridwright_actioncache.redis_opening import redis_database, redis_options
        from gridwright_actioncache.results.redis_store import RedisResultStore

        health = DependencyHealth(f"{settings.address} ({settings.key_prefix})", self._clock)
        self._metrics.watch(health)
        opening = RedisResultStore.open(redis_database(settings), self._clock, redis_options(settings), health)
        store = await self._stack.enter_async_context(opening)
        if not self._redis.stores:
            self._metrics.registry.register(self._redis)
        self._redis.stores.append(store)
        return store

    async def _open_fast_slow(self, settings: FastSlowStoreSettings) -> ResultStore:
        return FastSlowResultStore(
            await self.open(settings.fast),
            await self.open(settings.slow),
            self._clock,
            fast_direction=settings.fast_direction,
            slow_direction=settings.slow_direction,
        )

    async def _open_expiring(self, settings: ExpiringStoreSettings) -> ResultStore:
        store = ExpiringResultStore(
            await self.open(settings.backend),
            self._clock,
            max_seconds=settings.max_seconds,
            jitter_seconds=settings.jitter_seconds,
            minimum_timestamp=settings.minimum_unix_seconds,
        )
        self._metrics.expire(store)
        return store

    async def _open_remote(self, settings: GrpcStoreSettings) -> ResultStore:
        channel = await self._open_channel(_target(settings), name="action cache")
        return RemoteResultStore(channel, instance=settings.instance_name, timeout_seconds=_REMOTE_CACHE_SECONDS)

    async def _open_checking(self, settings: CompletenessCheckingStoreSettings) -> ResultStore:
        inner = await self.open(settings.backend)
        # A `ref_store` is a store of the CAS, which is another service: it is asked where it listens.
        self._blobs = await self._open_blobs(settings.cas_store.grpc if settings.cas_store else None)
        store = CompletenessCheckingStore(inner, self._blobs)
        self._stack.push_async_callback(store.aclose)
        self._metrics.check(store)
        return store

    async def _open_blobs(self, settings: GrpcStoreSettings | None) -> Mapping[str, BlobStore]:
        channel = await self._open_channel(self._cas if settings is None else _target(settings), name="cas")
        return {
            instance.name: RemoteStore(
                channel,
                _instance_name(settings, instance.name),
                timeout_seconds=_CAS_SECONDS,
                stream_timeout_seconds=_TREE_SECONDS,
            )
            for instance in self._instances
        }

    async def _open_channel(self, target: str, *, name: str) -> Channel:
        """Return a channel to *target* that tries again, and whose health is told under *name*."""
        health = DependencyHealth(name, self._clock)
        self._metrics.watch(health)
        plain = await self._stack.enter_async_context(GrpcChannel(target))
        return RetryingChannel(WatchedChannel(plain, health))


def _target(settings: GrpcStoreSettings) -> str:
    return settings.endpoints[0].address


def _instance_name(cas: GrpcStoreSettings | None, ours: str) -> str:
    return ours if cas is None or cas.instance_name is None else cas.instance_name
