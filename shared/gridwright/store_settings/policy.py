"""What an operator can say about how long, and how safely, something is kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import NonNegativeInt, model_validator

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.quantities import ByteBound, SecondsBound
from gridwright.sections import Section


class EvictionPolicySettings(Section):
    """When something goes to make room; the least recently used goes first, and 0 means that there is no such bound."""

    max_bytes: ByteBound = 0
    """The most that is kept."""

    max_seconds: SecondsBound = 0
    """What was not used for so long goes; also written "7d" or "1h30m"."""

    max_count: NonNegativeInt = 0
    """The most entries."""

    evict_bytes: ByteBound = 0
    """Once `max_bytes` is passed, so much more goes, and the next uploads find room at once."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.evict_bytes and self.evict_bytes >= self.max_bytes:
            raise ValueError(
                f"evict_bytes ({self.evict_bytes}) must be less than max_bytes ({self.max_bytes}), or all goes at once"
            )
        return self

    @property
    def policy(self) -> EvictionPolicy:
        """The same, as stores take it."""
        return EvictionPolicy(self.max_bytes, self.max_seconds, self.max_count, self.evict_bytes)


class Durability(StrEnum):
    """What an acknowledged upload has survived."""

    FULL = "full"
    RELAXED = "relaxed"
