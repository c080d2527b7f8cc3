"""No results at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from gridwright.digest import Digest
from gridwright_actioncache.results.store import ResultStore


class NoopResultStore(ResultStore):
    """Takes everything and keeps nothing.

    The place in a composition where a kind of result is to go nowhere: the upper side of a
    ``size_partitioning`` whose lower one is a small, fast cache.
    """

    def __repr__(self) -> str:
        return "<NoopResultStore>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        return {}

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        pass

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        pass

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return
        yield
