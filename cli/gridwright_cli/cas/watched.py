"""A store whose traffic is watched."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Mapping

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError


class WatchedStore(ForwardingStore):
    """Says how many bytes went through: a progress bar needs to know that of uploads that nobody else counts.

    Args:
        on_bytes: is told of each piece of a blob that is read or written.
    """

    def __init__(self, inner: BlobStore, on_bytes: Callable[[int], None]) -> None:
        super().__init__(inner)
        self._on_bytes = on_bytes

    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._watched(self._inner.get(digest, offset=offset, limit=limit))

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await self._inner.put(digest, self._watched(chunks))

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found = await self._inner.get_many(digests)
        self._on_bytes(sum(len(blob) for blob in found.values() if isinstance(blob, bytes)))
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return await self._inner.put_many(_WatchedBlobs(blobs, self._on_bytes))

    async def _watched(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            self._on_bytes(len(chunk))


class _WatchedBlobs(Mapping[Digest, bytes]):
    """The blobs of a batch, each of which is asked for when its turn comes."""

    def __init__(self, blobs: Mapping[Digest, bytes], on_bytes: Callable[[int], None]) -> None:
        self._blobs = blobs
        self._on_bytes = on_bytes

    def __getitem__(self, digest: Digest) -> bytes:
        blob = self._blobs[digest]
        self._on_bytes(len(blob))
        return blob

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)
