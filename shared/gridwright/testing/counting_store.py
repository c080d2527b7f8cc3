"""A store that counts what it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError


class CountingStore(ForwardingStore):
    """Counts the calls that reach the store behind it, by the name of the method."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()
        #: Of all chunks that were read.
        self.read_bytes = 0

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        self.calls["get"] += 1
        async for chunk in self._inner.get(digest, offset=offset, limit=limit):
            self.read_bytes += len(chunk)
            yield chunk

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        self.calls["put"] += 1
        await self._inner.put(digest, chunks)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        self.calls["missing"] += 1
        return await self._inner.missing(digests)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        self.calls["get_many"] += 1
        return await self._inner.get_many(digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        self.calls["put_many"] += 1
        return await self._inner.put_many(blobs)
