"""Blobs as they are kept, where that is in Zstandard frames."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gridwright.digest import Digest
from gridwright.errors import GridwrightError

if TYPE_CHECKING:
    from gridwright.blobs.store import BlobStore


class ZstdFrames(NamedTuple):
    """Some of a blob: whole Zstandard frames, one behind the other."""

    data: bytes
    #: How many bytes of the blob they hold.
    size_bytes: int


class StoredFrames(Protocol):
    """Reads a store's blobs without decompressing what readers want compressed anyway.

    A client that takes Zstandard can have the very frames that are kept, so nobody compresses
    them again. Where other bytes are kept these come: what has no frames is the blob itself.

    Frames are not decompressed to look at their checksums; whoever decompresses them does
    that. Stores that check what they read do so here as well.
    """

    @abstractmethod
    def get(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes | ZstdFrames]:
        """Yield the blob's bytes from *offset* on (not a negative one), some as frames.

        The bytes around a frame that begins before *offset* come as they are.

        Raises:
            BlobNotFound: before the first piece, never after it.
            OutOfRange: *offset* is larger than the blob.
        """
        ...

    @abstractmethod
    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
        """Return, for each of *digests*, its bytes, frames that are fewer than these, or why it cannot be had."""
        ...


class PlainFrames(StoredFrames):
    """Reads a store that keeps no frames."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def get(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes | ZstdFrames]:
        return self._store.get(digest, offset=offset)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
        return await self._store.get_many(digests)
