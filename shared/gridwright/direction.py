"""Which way things go between the two sides of a fast and a slow store."""

from __future__ import annotations

from enum import StrEnum


class Direction(StrEnum):
    """What is written to one of the two sides, in NativeLink's words; both are read always."""

    #: What callers put, and what was found on the other side.
    BOTH = "both"
    #: What callers put.
    UPDATE = "update"
    #: What was found on the other side.
    GET = "get"
    #: Nothing.
    READ_ONLY = "read_only"

    @property
    def takes_puts(self) -> bool:
        """Whether what callers put goes there."""
        return self in (Direction.BOTH, Direction.UPDATE)

    @property
    def takes_found(self) -> bool:
        """Whether what was found on the other side goes there."""
        return self in (Direction.BOTH, Direction.GET)
