"""Small results here, large ones there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from gridwright.digest import Digest
from gridwright_actioncache.results.key_locks import KeyLocks
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict


class SizePartitionedResultStore(ResultStore):
    """Keeps results of less than *size_bytes* in *lower*, the others in *upper*.

    So that a cache in memory is not filled by the few results that list ten thousand files.
    What counts is the size of the result: an action's digest says nothing about it, so
    whoever looks for results asks *lower* first, and *upper* for what is not there.

    A result that takes the place of one on the other side is removed there first, so the two
    never hold different results of one action.
    """

    def __init__(self, lower: ResultStore, upper: ResultStore, *, size_bytes: int) -> None:
        self._lower = lower
        self._upper = upper
        self._size_bytes = size_bytes
        self._locks = KeyLocks()

    def __repr__(self) -> str:
        return f"<SizePartitionedResultStore below {self._size_bytes}: {self._lower!r}, else {self._upper!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        found = await self._lower.get_many(instance, action_digests)
        others = [digest for digest in action_digests if digest not in found]
        if not others:
            return found
        return {**found, **await self._upper.get_many(instance, others)}

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        right, other = self._lower, self._upper
        if len(result) >= self._size_bytes:
            right, other = other, right
        async with self._locks.of(instance, action_digest):
            await other.remove(instance, [action_digest])
            await right.put(instance, action_digest, result)

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._lower.remove(instance, action_digests)
        await self._upper.remove(instance, action_digests)

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        for part in (self._lower, self._upper):
            async for page in part.walk(instance):
                yield page

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        verdict = await self._lower.explain(instance, action_digest)
        return verdict if verdict.outcome is not Outcome.ABSENT else await self._upper.explain(instance, action_digest)
