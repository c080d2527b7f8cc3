"""The store whose results stay as they were first written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from gridwright.digest import Digest
from gridwright.errors import FailedPrecondition
from gridwright_actioncache.results.key_locks import KeyLocks
from gridwright_actioncache.results.provenance import result_in
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict


class WriteOnceResultStore(ResultStore):
    """Keeps the first result of an action; another one for the same action is refused.

    An action that was built twice with different outputs is not reproducible, and whoever
    comes second must not change what the first one's users have. The same bytes once more,
    whoever sent them, are no change. What *inner* does not find may be written again, so above a completeness
    check a result whose outputs are gone is replaced.
    """

    def __init__(self, inner: ResultStore) -> None:
        self._inner = inner
        self._locks = KeyLocks()

    def __repr__(self) -> str:
        return f"<WriteOnceResultStore {self._inner!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        return await self._inner.get_many(instance, action_digests)

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        """Keep *result*, if there was none.

        Two processes that write the same result at the same moment may both succeed.

        Raises:
            FailedPrecondition: there is another one.
        """
        async with self._locks.of(instance, action_digest):
            kept = await self._inner.explain(instance, action_digest)
            if kept.outcome is not Outcome.HIT or kept.document is None:
                await self._inner.put(instance, action_digest, result)
            elif result_in(kept.document) != result_in(result):
                raise FailedPrecondition(f"action {action_digest} has a result already, and it may be written once")

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._inner.remove(instance, action_digests)

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return self._inner.walk(instance)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        return await self._inner.explain(instance, action_digest)
