"""Results in this process's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from itertools import islice

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import ResourceExhausted
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore

_Key = tuple[str, Digest]


class MemoryResultStore(ResultStore):
    """Keeps results in a dictionary and drops the least recently used beyond the bounds of *policy*.

    For tests, and for a cache that may be lost: nothing survives the process.
    """

    def __init__(self, *, policy: EvictionPolicy, clock: Clock) -> None:
        self._max_bytes = policy.max_bytes
        self._clock = clock
        self._order = EvictionOrder[_Key](policy)
        self._results: dict[_Key, bytes] = {}

    def __repr__(self) -> str:
        bound = f" of {self._max_bytes}" if self._max_bytes else ""
        return f"<MemoryResultStore {len(self._results)} results, {self._order.used_bytes}{bound} bytes>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        now = self._clock.monotonic()
        self._drop(self._order.evict(now))
        return {
            digest: self._results[instance, digest]
            for digest in action_digests
            if self._order.touch((instance, digest), now)
        }

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        if 0 < self._max_bytes < len(result):
            raise ResourceExhausted(f"a result of {len(result)} bytes is larger than this store's {self._max_bytes}")
        key = (instance, action_digest)
        now = self._clock.monotonic()
        await self.remove(instance, [action_digest])
        self._drop(self._order.evict(now, coming_bytes=len(result), coming_count=1))
        self._results[key] = result
        self._order.add(key, len(result), now)

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        self._drop(key for digest in action_digests if self._order.discard(key := (instance, digest)))

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        # Of the keys as they are now: what is dropped meanwhile would change what is iterated over.
        keys = iter([key for key in self._results if key[0] == instance])
        while page := list(islice(keys, PAGE_RESULTS)):
            yield {key[1]: self._results[key] for key in page if key in self._results}

    def _drop(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            del self._results[key]
