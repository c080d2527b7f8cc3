"""A store that answers everything with one error."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError


class BrokenStore(BlobStore):
    """Fails with *error*: what a disk that is full, or a CAS that is down, looks like from above.

    Single calls raise it; bulk uploads and downloads return it for each blob.
    """

    def __init__(self, error: GridwrightError) -> None:
        self._error = error

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        await self.missing({digest})
        yield b""  # makes it a generator

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        raise self._error

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        raise self._error

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return dict.fromkeys(digests, self._error)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return dict.fromkeys(blobs, self._error)
