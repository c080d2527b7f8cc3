"""What all decorators of a store have in common."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.removals import RemovalListener
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError


class ForwardingStore(BlobStore):
    """Passes every call on to another store; a decorator inherits it and writes down what it changes."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._inner!r}>"

    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._inner.get(digest, offset=offset, limit=limit)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await self._inner.put(digest, chunks)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return await self._inner.missing(digests)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return await self._inner.get_many(digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return await self._inner.put_many(blobs)

    def on_removal(self, listener: RemovalListener) -> None:
        self._inner.on_removal(listener)

    @property
    def announces_removals(self) -> bool:
        return self._inner.announces_removals
