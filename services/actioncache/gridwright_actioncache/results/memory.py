"""Results in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from gridwright.digest import Digest
from gridwright_actioncache.results.store import ResultStore


class MemoryResultStore(ResultStore):
    """Keeps results in a dictionary and drops the least recently used beyond *max_count*.

    For tests, and for a cache that may be lost: nothing survives the process.
    """

    def __init__(self, *, max_count: int) -> None:
        self._max_count = max_count
        self._results: OrderedDict[tuple[str, Digest], bytes] = OrderedDict()

    def __repr__(self) -> str:
        return f"<MemoryResultStore {len(self._results)} of {self._max_count} results>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        found: dict[Digest, bytes] = {}
        for digest in action_digests:
            result = self._results.get((instance, digest))
            if result is not None:
                self._results.move_to_end((instance, digest))
                found[digest] = result
        return found

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        self._results[instance, action_digest] = result
        self._results.move_to_end((instance, action_digest))
        while len(self._results) > self._max_count:
            self._results.popitem(last=False)
