"""The stores that keep something themselves, as an operator writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gridwright.instances import InstanceName
from gridwright.quantities import ByteBound, ByteSize, SecondsBound
from gridwright.sections import Section
from gridwright.store_settings.policy import Durability, EvictionPolicySettings


def _target(address: str) -> str:
    scheme, slashes, rest = address.partition("://")
    if not slashes or scheme == "dns" or not rest:
        return address
    if scheme in ("grpcs", "https"):
        raise ValueError(f"{address!r}: TLS between services is not offered yet; write grpc://{rest}")
    if scheme not in ("grpc", "http"):
        raise ValueError(f"{address!r} is not an address; write grpc://HOST:PORT, unix:PATH or dns:///NAME:PORT")
    return rest.rstrip("/")


#: A gRPC target, also written ``grpc://host:port``.
GrpcTarget = Annotated[str, Field(min_length=1), AfterValidator(_target)]


#: Below this what a segment store holds back for itself leaves too little, or nothing.
_MIN_SEGMENTS_BYTES = 16_000_000


class MemoryStoreSettings(Section):
    """In the memory of the process, gone when it ends."""

    eviction_policy: EvictionPolicySettings = EvictionPolicySettings(max_bytes=1_000_000_000)
    """When entries go; `max_bytes` or `max_count` is needed."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not (self.eviction_policy.max_bytes or self.eviction_policy.max_count):
            raise ValueError(
                "without a bound it grows until the process dies; write eviction_policy: {max_bytes: 1Gb}, or max_count"
            )
        return self


class FilesystemStoreSettings(Section):
    """Each entry in a file of its own."""

    content_path: Path
    """The directory; one process at a time can use it."""

    temp_path: Path | None = None
    """Where uploads are written before they get their name, on the same file system; by default in `content_path`."""

    eviction_policy: EvictionPolicySettings = EvictionPolicySettings(max_bytes=20_000_000_000)
    """When entries go."""

    durability: Durability = Durability.FULL
    """`full` synchronises each file before it gets its name; `relaxed` leaves that to the system: faster on slow
    disks, and after a power cut a file system without ordered writes may hold wrong bytes. In a CAS a power cut may
    take the last uploads back in either case, each as a whole; `segments` keeps them."""


class SegmentsStoreSettings(Section):
    """Blobs in an append-only log with an index: fast with small blobs, opens at once, survives power cuts."""

    content_path: Path
    """The directory, on a disk of this machine. Several processes of this machine may use it together."""

    eviction_policy: EvictionPolicySettings = EvictionPolicySettings(max_bytes=20_000_000_000)
    """When blobs go; `max_bytes` is needed, and what `du` says never exceeds it."""

    durability: Durability = Durability.FULL
    """`full` acknowledges an upload when it is on the disk; `relaxed` leaves that to the system, and a power cut may
    take the last uploads back."""

    min_retention_seconds: SecondsBound = 10_800
    """How long a blob is to be kept after its last use: three hours, the time for which Bazel believes in it. When
    nothing older is left the oldest goes anyway, and a counter says so."""

    strict_retention: bool = False
    """Refuse uploads with RESOURCE_EXHAUSTED where a blob would go before `min_retention_seconds`."""

    scrub_bytes_per_second: ByteBound = 10_000_000
    """How fast what is kept is read in the background and checked; 0 for not at all."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.eviction_policy.max_bytes:
            raise ValueError("the size of its files depends on max_bytes; write eviction_policy: {max_bytes: 100Gb}")
        if self.eviction_policy.max_bytes < _MIN_SEGMENTS_BYTES:
            raise ValueError("its index leaves no room for blobs; write eviction_policy: {max_bytes: 16Mb} or more")
        return self


class LmdbStoreSettings(Section):
    """Action results in a directory, in LMDB."""

    path: Path = Path(".gridwright/actioncache")
    """The directory, on a disk of this machine: network file systems do not serve."""

    max_bytes: ByteSize = 4_000_000_000
    """The most that the directory takes; the least recently used results go first."""


class GrpcEndpointSettings(Section):
    """Where a service listens."""

    address: GrpcTarget
    """`grpc://HOST:PORT`, `unix:PATH`, or `dns:///NAME:PORT`."""


class GrpcStoreSettings(Section):
    """Another CAS, or another action cache, over the Remote Execution API."""

    instance_name: InstanceName | None = None
    """The instance name to use there; by default the one that is used here."""

    endpoints: tuple[GrpcEndpointSettings, ...]
    """Where it listens."""

    store_type: Literal["cas", "ac"] = "cas"
    """What is kept there: `cas` for blobs, `ac` for action results."""

    @model_validator(mode="after")
    def _one_endpoint(self) -> Self:
        if len(self.endpoints) != 1:
            raise ValueError(
                "endpoints: write one; for several, a name that stands for all of them, as dns:///NAME:PORT"
            )
        return self


class NoopStoreSettings(Section):
    """Keeps nothing: whatever is put is gone, and nothing is found."""


class RefStoreSettings(Section):
    """A store of the list `stores`."""

    name: str = Field(min_length=1)
    """Its name there."""
