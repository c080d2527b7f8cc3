"""The store whose results only others may change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import NoReturn

from gridwright.digest import Digest
from gridwright.errors import PermissionDenied
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Verdict


class ReadOnlyResultStore(ResultStore):
    """Finds results and takes none.

    For a cache that one grid fills and another one uses. Clients that are told
    PERMISSION_DENIED go on without uploading results (checklist ACU-05).
    """

    def __init__(self, inner: ResultStore) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"<ReadOnlyResultStore {self._inner!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        return await self._inner.get_many(instance, action_digests)

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        self._refuse()

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        self._refuse()

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return self._inner.walk(instance)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        return await self._inner.explain(instance, action_digest)

    def _refuse(self) -> NoReturn:
        raise PermissionDenied("this action cache is read-only (read_only in its settings)")
