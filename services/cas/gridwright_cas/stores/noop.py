"""Nothing is kept here."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.removals import RemovalListener
from gridwright.blobs.store import BlobStore, is_empty
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, GridwrightError


class NoopStore(BlobStore):
    """Takes every blob and keeps none.

    For the part of a composition that shall not exist: the upper half of a cache in memory
    that is for small blobs, say.
    """

    def __repr__(self) -> str:
        return "<NoopStore>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        blob = (await self.get_many([digest]))[digest]
        if isinstance(blob, GridwrightError):
            raise blob
        if blob:
            yield blob

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        # Heard to the end: a check further up must still find what is wrong.
        async for _ in chunks:
            pass

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return {digest for digest in digests if not is_empty(digest)}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return {digest: b"" if is_empty(digest) else BlobNotFound(digest) for digest in digests}

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return dict.fromkeys(blobs)

    def on_removal(self, listener: RemovalListener) -> None:
        """Nothing is ever there that could go."""
