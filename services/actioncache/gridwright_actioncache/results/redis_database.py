"""What a store of results asks of a Redis, however many servers it is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from gridwright.errors import GridwrightError


class Keep(NamedTuple):
    """Keep *value* under *key*, for so many milliseconds, or until Redis needs the room where that is 0."""

    key: bytes
    value: bytes
    expire_ms: int


class Forget(NamedTuple):
    """Keep nothing under *key*."""

    key: bytes


class Prolong(NamedTuple):
    """Keep what is under *key*, if something is, for so many milliseconds from now on."""

    key: bytes
    expire_ms: int


RedisChange = Keep | Forget | Prolong


class RedisDatabase(Protocol):
    """A Redis: one server, the one that sentinels name, or a cluster.

    Every method raises ``Unavailable`` where the whole call came to nothing; what went wrong
    with one key only stands in its place. None of them has a bound of its own on how long it
    takes: whoever calls cancels.
    """

    @abstractmethod
    def server_of(self, key: bytes) -> str:
        """Return a name for the server that holds *key*, as far as is known; keys of one name travel together."""
        ...

    @abstractmethod
    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | GridwrightError | None]:
        """Return what is under each of *keys*."""
        ...

    @abstractmethod
    async def change(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        """Make *changes* in their order, and return for each why it was not made, if it was not.

        ``ResourceExhausted`` says that Redis has no room.
        """
        ...

    @abstractmethod
    async def revive(self, server: str) -> None:
        """Find out again who *server* is and whether it answers; return if it does, or is nobody's server any more."""
        ...

    @abstractmethod
    def keys(self, prefix: str) -> AsyncIterator[Sequence[bytes]]:
        """Yield all keys with *prefix*, which has no character that a pattern of Redis treats in its own way."""
        ...

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections."""
        ...
