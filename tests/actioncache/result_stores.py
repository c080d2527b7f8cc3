"""Stores of results for tests of what stands above them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest
from gridwright.errors import GridwrightError
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.store import ResultStore


def a_memory() -> MemoryResultStore:
    """Return an empty store without bounds."""
    return MemoryResultStore(policy=EvictionPolicy(), clock=FakeClock())


class BrokenResultStore(ResultStore):
    """Answers everything with *error*: what a full disk, or a database that is down, looks like from above."""

    def __init__(self, error: GridwrightError) -> None:
        self._error = error

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        raise self._error

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        raise self._error

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        raise self._error

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        raise self._error


class CountingResultStore(ResultStore):
    """Counts the calls, and can be told to fail or to hold its answers back."""

    def __init__(self, inner: ResultStore) -> None:
        self._inner = inner
        self.calls: Counter[str] = Counter()
        #: The digests of the last ``get_many``.
        self.asked: set[Digest] = set()
        #: What a method, by its name, raises.
        self.errors: dict[str, GridwrightError] = {}
        #: A method, by its name, has done its work, and waits for this before it answers.
        self.gates: dict[str, asyncio.Event] = {}

    def __repr__(self) -> str:
        return f"<CountingResultStore {self._inner!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        self._begin("get_many")
        self.asked = set(action_digests)
        found = await self._inner.get_many(instance, action_digests)
        await self._end("get_many")
        return found

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        self._begin("put")
        await self._inner.put(instance, action_digest, result)
        await self._end("put")

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        self._begin("remove")
        await self._inner.remove(instance, action_digests)
        await self._end("remove")

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        self._begin("walk")
        return self._inner.walk(instance)

    def _begin(self, operation: str) -> None:
        self.calls[operation] += 1
        if error := self.errors.get(operation):
            raise error

    async def _end(self, operation: str) -> None:
        if gate := self.gates.get(operation):
            await asyncio.wait_for(gate.wait(), 10)
