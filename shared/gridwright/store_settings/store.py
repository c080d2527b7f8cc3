"""A store, as an operator writes it: a leaf, or a decorator around other stores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from gridwright.direction import Direction
from gridwright.quantities import ByteBound, ByteSize, SecondsBound
from gridwright.sections import OneOf, Section
from gridwright.store_settings.leaves import (
    FilesystemStoreSettings,
    GrpcStoreSettings,
    LmdbStoreSettings,
    MemoryStoreSettings,
    NoopStoreSettings,
    RefStoreSettings,
    SegmentsStoreSettings,
)
from gridwright.store_settings.policy import EvictionPolicySettings
from gridwright.store_settings.redis import RedisStoreSettings


class VerifyStoreSettings(Section):
    """Refuses uploads whose size or hash is not that of their digest."""

    backend: StoreSettings
    """The store that keeps what is right."""

    verify_size: bool = True
    """Whether the size is checked."""

    verify_hash: bool = True
    """Whether the hash is checked; without it, one client's mistake is everybody's wrong build."""

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if not (self.verify_size or self.verify_hash):
            raise ValueError("verify_size and verify_hash are both off, so it checks nothing; write only its backend")
        return self


class Lz4Settings(Section):
    """Fast, and compresses a little."""

    block_size: ByteSize = Field(default=64 * 1024, ge=4096, le=4 * 1024 * 1024)
    """What is compressed at a time; a read decompresses whole blocks."""


class ZstdSettings(Section):
    """Compresses well, and is what clients speak."""

    level: int = Field(default=1, ge=-7, le=19)
    """The higher the smaller, and the slower."""

    block_size: ByteSize = Field(default=1024 * 1024, ge=4096, le=16 * 1024 * 1024)
    """What is compressed at a time; a read decompresses whole blocks."""


class CompressionAlgorithmSettings(OneOf):
    """Exactly one of these keys."""

    lz4: Lz4Settings | None = None
    """LZ4."""

    zstd: ZstdSettings | None = None
    """Zstandard."""

    @property
    def variant(self) -> Lz4Settings | ZstdSettings:
        """The one that was chosen."""
        variant: Lz4Settings | ZstdSettings = getattr(self, self.kind)
        return variant


class CompressionStoreSettings(Section):
    """Keeps blobs compressed."""

    backend: StoreSettings
    """The store that keeps what is left of them."""

    compression_algorithm: CompressionAlgorithmSettings = CompressionAlgorithmSettings(lz4=Lz4Settings())
    """How."""


class ExistenceCacheStoreSettings(Section):
    """Remembers in memory which blobs the backend holds, and asks it only about the others."""

    backend: StoreSettings
    """The store that knows."""

    eviction_policy: EvictionPolicySettings = EvictionPolicySettings(max_count=2_000_000)
    """When it forgets; two million digests, about a gigabyte of memory, are the most in any case. Over a store that
    does not tell of removals (`grpc`), `max_seconds` is needed."""


class FastSlowStoreSettings(Section):
    """A small fast store in front of a large slow one, which decides what is there."""

    fast: StoreSettings
    """Where is looked first."""

    slow: StoreSettings
    """Where everything is."""

    fast_direction: Direction = Direction.BOTH
    """What is written to `fast`: uploads and what was read from `slow` (`both`), only uploads (`update`), only what was
    read (`get`), nothing (`read_only`)."""

    slow_direction: Direction = Direction.BOTH
    """What is written to `slow`: uploads (`both`, `update`), nothing (`get`, `read_only`)."""

    @model_validator(mode="after")
    def _uploads_go_somewhere(self) -> Self:
        if not (self.fast_direction.takes_puts or self.slow_direction.takes_puts):
            raise ValueError(
                "neither half takes uploads, so none would be kept; write slow_direction: both, or put the whole into "
                "read_only if uploads are to be refused"
            )
        return self


class SizePartitioningStoreSettings(Section):
    """Small blobs into one store, large ones into another."""

    size: ByteBound
    """Blobs of fewer bytes go to `lower_store`, others to `upper_store`."""

    lower_store: StoreSettings
    """Where small ones are kept."""

    upper_store: StoreSettings
    """Where large ones are kept."""

    @field_validator("size")
    @classmethod
    def _divides(cls, size: int) -> int:
        if not size:
            raise ValueError("0 sends everything to upper_store; write that store alone, or a size such as 64kb")
        return size


class ReadOnlyStoreSettings(Section):
    """Refuses uploads."""

    backend: StoreSettings
    """The store that is read."""


class WriteOnceStoreSettings(Section):
    """Keeps the first result of an action, and leaves later ones."""

    backend: StoreSettings
    """The store that keeps results."""


class ExpiringStoreSettings(Section):
    """Finds no result that is too old; what has expired stays until it is built anew or evicted."""

    backend: StoreSettings
    """The store that keeps results."""

    max_seconds: SecondsBound = 0
    """How old a result may be, by what its worker said of it; 0 for any age."""

    jitter_seconds: SecondsBound = 0
    """Results expire up to so much earlier, each by a share of its own, so that not all are built anew at once."""

    minimum_timestamp: datetime | None = None
    """Results from before this moment are not found (`2026-11-20T03:00:00Z`): for when they cannot be trusted."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.max_seconds and self.minimum_timestamp is None:
            raise ValueError("nothing would expire; write max_seconds or minimum_timestamp, or only its backend")
        if self.jitter_seconds and self.jitter_seconds >= self.max_seconds:
            raise ValueError(f"jitter_seconds must be less than max_seconds ({self.max_seconds:g})")
        return self

    @property
    def minimum_unix_seconds(self) -> float:
        """The same moment as a number, 0 if there is none; a time without a zone is UTC."""
        if self.minimum_timestamp is None:
            return 0.0
        moment = self.minimum_timestamp
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class MeteredStoreSettings(Section):
    """Counts and times what is asked of the backend, for /metrics."""

    backend: StoreSettings
    """The store that is measured."""

    name: str = Field(min_length=1)
    """The label `store` of the metrics."""


class CompletenessCheckingStoreSettings(Section):
    """Finds an action's result only while all that it names is in the CAS."""

    backend: StoreSettings
    """The store that keeps results."""

    cas_store: StoreSettings | None = None
    """The CAS: a `ref_store` to the store of the service `cas`, which is then asked at `endpoints.cas`, or `grpc`. By
    default `endpoints.cas`."""


AnyStore = (
    MemoryStoreSettings
    | FilesystemStoreSettings
    | SegmentsStoreSettings
    | LmdbStoreSettings
    | RedisStoreSettings
    | GrpcStoreSettings
    | NoopStoreSettings
    | RefStoreSettings
    | VerifyStoreSettings
    | CompressionStoreSettings
    | ExistenceCacheStoreSettings
    | FastSlowStoreSettings
    | SizePartitioningStoreSettings
    | ReadOnlyStoreSettings
    | WriteOnceStoreSettings
    | ExpiringStoreSettings
    | MeteredStoreSettings
    | CompletenessCheckingStoreSettings
)


class StoreSettings(OneOf):
    """A store: exactly one of these keys."""

    memory: MemoryStoreSettings | None = None
    """In memory."""

    filesystem: FilesystemStoreSettings | None = None
    """A file for each entry."""

    segments: SegmentsStoreSettings | None = None
    """Blobs in a log with an index."""

    lmdb: LmdbStoreSettings | None = None
    """Action results in LMDB."""

    redis: RedisStoreSettings | None = None
    """Action results in Redis."""

    grpc: GrpcStoreSettings | None = None
    """Another CAS, or another action cache."""

    noop: NoopStoreSettings | None = None
    """Nothing is kept."""

    ref_store: RefStoreSettings | None = None
    """A store of the list `stores`."""

    verify: VerifyStoreSettings | None = None
    """Uploads are checked."""

    compression: CompressionStoreSettings | None = None
    """Blobs are kept compressed."""

    existence_cache: ExistenceCacheStoreSettings | None = None
    """What exists is remembered."""

    fast_slow: FastSlowStoreSettings | None = None
    """A fast store in front of a slow one."""

    size_partitioning: SizePartitioningStoreSettings | None = None
    """Small and large blobs apart."""

    read_only: ReadOnlyStoreSettings | None = None
    """Uploads are refused."""

    write_once: WriteOnceStoreSettings | None = None
    """The first result of an action stays."""

    expiring: ExpiringStoreSettings | None = None
    """Old results are not found."""

    metered: MeteredStoreSettings | None = None
    """Calls are counted and timed."""

    completeness_checking: CompletenessCheckingStoreSettings | None = None
    """Results whose outputs are gone are not found."""

    @property
    def variant(self) -> AnyStore:
        """The one that was chosen."""
        variant: AnyStore = getattr(self, self.kind)
        return variant

    def inner(self) -> Iterator[tuple[str, StoreSettings]]:
        """Yield key and store of each store that this one keeps its entries in."""
        variant = self.variant
        for key in type(variant).model_fields:
            if key in _INNER and (store := getattr(variant, key)) is not None:
                yield key, store


#: The keys under which decorators have the stores that they decorate; `cas_store` is another service's.
_INNER = frozenset({"backend", "fast", "slow", "lower_store", "upper_store"})


class NamedStoreSettings(StoreSettings):
    """One entry of the list `stores`: its name, and exactly one of the other keys."""

    beside: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str = Field(min_length=1)
    """What `ref_store` calls it."""
