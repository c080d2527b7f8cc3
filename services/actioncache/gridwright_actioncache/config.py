"""What an operator can say about the action cache."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import PositiveInt, model_validator

from gridwright.settings import Address, ByteSize, GridSettings, OneOf, Section, ServerSettings


class MemorySettings(Section):
    """Results in the memory of the process, gone when it ends."""

    max_count: PositiveInt = 100_000
    """The most results that are kept; the least recently used go first."""


class LmdbSettings(Section):
    """Results in a directory, in LMDB."""

    path: Path = Path(".gridwright/actioncache")
    """The directory, on a disk of this machine: network file systems do not serve."""

    max_bytes: ByteSize = 4_000_000_000
    """The most that the directory takes; the least recently used results go first."""


class CompletenessCheckingSettings(Section):
    """A store that finds a result only while all its outputs are in the CAS (`endpoints.cas`)."""

    backend: StoreSettings
    """The store that keeps results."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.backend.completeness_checking is not None:
            raise ValueError("results that were checked need no second check; write it once")
        return self


class StoreSettings(OneOf):
    """A store of results: exactly one of these keys."""

    memory: MemorySettings | None = None
    """Results in memory."""

    lmdb: LmdbSettings | None = None
    """Results in a directory."""

    completeness_checking: CompletenessCheckingSettings | None = None
    """Results whose outputs are gone are not found."""

    @property
    def variant(self) -> MemorySettings | LmdbSettings | CompletenessCheckingSettings:
        """The one that was given."""
        variant = self.memory or self.lmdb or self.completeness_checking
        assert variant is not None, "the validator sees to it"
        return variant


class ActionCacheSettings(ServerSettings):
    """The action cache."""

    listen: Address = Address("127.0.0.1:50072")
    """Where gRPC is served."""

    admin: Address = Address("127.0.0.1:9072")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    store: StoreSettings = StoreSettings(
        completeness_checking=CompletenessCheckingSettings(backend=StoreSettings(lmdb=LmdbSettings()))
    )
    """Where results are kept."""


class ActionCacheFile(GridSettings):
    """The settings file, as the action cache reads it."""

    actioncache: ActionCacheSettings = ActionCacheSettings()
    """The action cache."""
