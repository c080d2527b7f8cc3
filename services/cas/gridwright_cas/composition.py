"""The stores of the CAS, opened as the settings compose them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import ConfigurationError
from gridwright.store_settings.leaves import (
    FilesystemStoreSettings,
    GrpcStoreSettings,
    MemoryStoreSettings,
    NoopStoreSettings,
    RefStoreSettings,
    SegmentsStoreSettings,
)
from gridwright.store_settings.named_stores import NamedStores
from gridwright.store_settings.policy import Durability
from gridwright.store_settings.store import (
    CompressionStoreSettings,
    ExistenceCacheStoreSettings,
    FastSlowStoreSettings,
    Lz4Settings,
    MeteredStoreSettings,
    ReadOnlyStoreSettings,
    SizePartitioningStoreSettings,
    StoreSettings,
    VerifyStoreSettings,
    ZstdSettings,
)
from gridwright_cas.store_metrics import StoreMetrics
from gridwright_cas.stores.existence_cached import ExistenceCachedStore
from gridwright_cas.stores.fast_slow import FastSlowStore
from gridwright_cas.stores.metered import MeteredStore
from gridwright_cas.stores.noop import NoopStore
from gridwright_cas.stores.read_only import ReadOnlyStore
from gridwright_cas.stores.size_partitioned import SizePartitionedStore
from gridwright_cas.stores.verified import VerifiedStore

if TYPE_CHECKING:
    from gridwright_cas.stores.codecs import Codec
    from gridwright_cas.stores.segments.engine import Engine

#: A CAS that restarts is back by then; the client of this one waits about a minute.
_REMOTE_SECONDS = 10.0
#: By which names in it a directory shows what kind of store it belongs to.
_NAMES_IN = {
    "segments": ("index", "segments"),
    "filesystem": tuple(function.name.lower() for function in DigestFunction),
}


class StorageDomain(NamedTuple):
    """Whose blobs are kept together, and apart from those of others."""

    name: str
    #: An instance that keeps its blobs here.
    instance: str


class Composition:
    """Opens stores, each of which is closed with *stack*; one with a name once for each storage domain."""

    def __init__(self, stores: NamedStores, metrics: StoreMetrics, stack: AsyncExitStack) -> None:
        self._stores = stores
        self._metrics = metrics
        self._stack = stack
        self._clock = SystemClock()
        #: Of the segment stores.
        self.engines: list[Engine] = []
        self._opened: dict[tuple[str, str], BlobStore] = {}
        #: Which storage domain has which instance of which other CAS.
        self._remote: dict[tuple[str, str], str] = {}

    async def open(self, settings: StoreSettings, domain: StorageDomain) -> BlobStore:
        """Return the store of one storage domain.

        Raises:
            ConfigurationError: a directory cannot be used.
        """
        match settings.variant:
            case MemoryStoreSettings() as memory:
                return MemoryStore(policy=memory.eviction_policy.policy)
            case FilesystemStoreSettings() as files:
                return await self._open_files(files, domain)
            case SegmentsStoreSettings() as segments:
                return await self._open_segments(segments, domain)
            case GrpcStoreSettings() as remote:
                return await self._open_remote(remote, domain)
            case NoopStoreSettings():
                return NoopStore()
            case RefStoreSettings() as reference:
                return await self._open_named(reference.name, domain)
            case VerifyStoreSettings() as verify:
                inner = await self.open(verify.backend, domain)
                return VerifiedStore(inner, verify_size=verify.verify_size, verify_hash=verify.verify_hash)
            case CompressionStoreSettings() as compression:
                return await self._open_compressed(compression, domain)
            case ExistenceCacheStoreSettings() as cache:
                inner = await self.open(cache.backend, domain)
                return ExistenceCachedStore(inner, self._clock, cache.eviction_policy.policy)
            case FastSlowStoreSettings() as halves:
                return await self._open_fast_slow(halves, domain)
            case SizePartitioningStoreSettings() as parts:
                lower, upper = await self.open(parts.lower_store, domain), await self.open(parts.upper_store, domain)
                return SizePartitionedStore(parts.size, lower, upper)
            case ReadOnlyStoreSettings() as read_only:
                return ReadOnlyStore(await self.open(read_only.backend, domain))
            case MeteredStoreSettings() as metered:
                recorder = self._metrics.recorder(metered.name, domain.name)
                return MeteredStore(await self.open(metered.backend, domain), recorder)
            case _:
                raise ConfigurationError(f"the CAS has no store {settings.kind}")

    async def _open_named(self, name: str, domain: StorageDomain) -> BlobStore:
        key = (name, domain.name)
        if key not in self._opened:
            self._opened[key] = await self.open(self._stores[name], domain)
        return self._opened[key]

    async def _open_files(self, settings: FilesystemStoreSettings, domain: StorageDomain) -> BlobStore:
        from gridwright_cas.stores.filesystem import FilesystemStore

        opening = FilesystemStore.opened(
            _directory("filesystem", settings.content_path, domain),
            self._clock,
            settings.eviction_policy.policy,
            temp_path=None if settings.temp_path is None else _domain_path(settings.temp_path, domain.name),
            durable=settings.durability is Durability.FULL,
        )
        return await self._stack.enter_async_context(opening)

    async def _open_segments(self, settings: SegmentsStoreSettings, domain: StorageDomain) -> BlobStore:
        from gridwright_cas.stores.segments.engine import SegmentSettings
        from gridwright_cas.stores.segments.store import SegmentStore

        opening = SegmentStore.opened(
            _directory("segments", settings.content_path, domain),
            self._clock,
            SegmentSettings(
                settings.eviction_policy.policy,
                durable=settings.durability is Durability.FULL,
                min_retention_seconds=settings.min_retention_seconds,
                strict_retention=settings.strict_retention,
                scrub_bytes_per_second=settings.scrub_bytes_per_second,
            ),
        )
        store = await self._stack.enter_async_context(opening)
        self._metrics.watch(store.engine)
        self.engines.append(store.engine)
        return store

    async def _open_remote(self, settings: GrpcStoreSettings, domain: StorageDomain) -> BlobStore:
        from gridwright.blobs.remote import RemoteStore
        from gridwright.wire.grpc_channel import GrpcChannel
        from gridwright.wire.retrying_channel import RetryingChannel

        address = settings.endpoints[0].address
        instance = domain.instance if settings.instance_name is None else settings.instance_name
        if (other := self._remote.setdefault((address, instance), domain.name)) != domain.name:
            raise ConfigurationError(
                f"the storage domains {other!r} and {domain.name!r} would share instance {instance!r} of {address}; "
                "leave grpc.instance_name out, and each asks there under its own name"
            )
        channel = await self._stack.enter_async_context(GrpcChannel(address))
        return RemoteStore(RetryingChannel(channel), instance, timeout_seconds=_REMOTE_SECONDS)

    async def _open_compressed(self, settings: CompressionStoreSettings, domain: StorageDomain) -> BlobStore:
        from gridwright_cas.stores.compressed import CompressedStore

        return CompressedStore(
            await self.open(settings.backend, domain), _codec(settings.compression_algorithm.variant)
        )

    async def _open_fast_slow(self, settings: FastSlowStoreSettings, domain: StorageDomain) -> BlobStore:
        return FastSlowStore(
            await self.open(settings.fast, domain),
            await self.open(settings.slow, domain),
            self._clock,
            fast_direction=settings.fast_direction,
            slow_direction=settings.slow_direction,
        )


def _codec(settings: Lz4Settings | ZstdSettings) -> Codec:
    from gridwright_cas.stores.codecs import Lz4Codec, ZstdCodec

    match settings:
        case Lz4Settings():
            return Lz4Codec(block_bytes=settings.block_size)
        case ZstdSettings():
            return ZstdCodec(level=settings.level, block_bytes=settings.block_size)


def _directory(kind: str, content_path: Path, domain: StorageDomain) -> Path:
    """Return the directory for a store of *kind*.

    Raises:
        ConfigurationError: it is one of another kind, whose files would stay there unseen, and fill the disk.
    """
    path = _domain_path(content_path, domain.name)
    for other, names in _NAMES_IN.items():
        if other != kind and any((path / name).exists() for name in names):
            raise ConfigurationError(
                f"{path} holds the blobs of a `{other}` store: write {other}, or another content_path than for {kind}, "
                "or remove the directory"
            )
    return path


def _domain_path(content_path: Path, domain: str) -> Path:
    """Return the directory of a storage domain, whose name may hold slashes, be "..", or empty."""
    return content_path / (quote(domain, safe="").replace(".", "%2E") or "%")
