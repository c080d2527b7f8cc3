"""What an operator can say about the CAS."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from gridwright.settings import Address, ByteSize, GridSettings, OneOf, Section, ServerSettings


class EvictionPolicy(Section):
    """When blobs go to make room for others."""

    max_bytes: ByteSize
    """The most that the store keeps; the least recently used blobs go first. Each storage domain has its own."""


class Durability(StrEnum):
    """What an acknowledged upload has survived."""

    FULL = "full"
    RELAXED = "relaxed"


class MemoryStoreSettings(Section):
    """Blobs in the memory of the process, gone when it ends."""

    eviction_policy: EvictionPolicy = EvictionPolicy(max_bytes=1_000_000_000)
    """When blobs go."""


class FilesystemStoreSettings(Section):
    """Each blob in a file of its own."""

    content_path: Path = Path(".gridwright/cas")
    """The directory; one process at a time can use it. Each storage domain has a directory in it."""

    eviction_policy: EvictionPolicy = EvictionPolicy(max_bytes=20_000_000_000)
    """When blobs go."""

    durability: Durability = Durability.FULL
    """`full` synchronises each file before it gets its name; `relaxed` leaves that to the system: faster on slow
    disks, and after a power cut a file system without ordered writes may hold wrong bytes."""


class VerifyStoreSettings(Section):
    """A store that refuses uploads whose hash or size is wrong."""

    backend: StoreSettings
    """The store that keeps what is right."""


class StoreSettings(OneOf):
    """A store: exactly one of these keys."""

    memory: MemoryStoreSettings | None = None
    """Blobs in memory."""

    filesystem: FilesystemStoreSettings | None = None
    """Blobs in files."""

    verify: VerifyStoreSettings | None = None
    """Uploads are checked."""

    @property
    def variant(self) -> MemoryStoreSettings | FilesystemStoreSettings | VerifyStoreSettings:
        """The one that was given."""
        variant = self.memory or self.filesystem or self.verify
        assert variant is not None, "the validator sees to it"
        return variant


class CasSettings(ServerSettings):
    """The CAS service."""

    listen: Address = Address("127.0.0.1:50071")
    """Where gRPC is served."""

    admin: Address = Address("127.0.0.1:9071")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    store: StoreSettings = StoreSettings(
        verify=VerifyStoreSettings(backend=StoreSettings(filesystem=FilesystemStoreSettings()))
    )
    """Where blobs are kept."""


class CasFile(GridSettings):
    """The settings file, as the CAS reads it."""

    cas: CasSettings = CasSettings()
    """The CAS service."""
