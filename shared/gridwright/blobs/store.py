"""The interface of everything that keeps blobs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set
from typing import Protocol

from gridwright.digest import Digest
from gridwright.errors import GridwrightError

#: The size of the pieces in which stores hand out bytes: large enough that the cost of a
#: chunk vanishes, small enough that a hundred concurrent reads fit in memory.
CHUNK_BYTES = 1024 * 1024


class BlobStore(Protocol):
    """Keeps blobs under the digest of their bytes.

    A leaf keeps bytes (memory, disk, another CAS over gRPC). A decorator holds another
    store and changes one thing about it. Both look the same from outside, so a whole
    storage policy is a nest of constructors in ``app.py``. Bulk is the common case: a
    decorator forwards bulk as bulk.

    Every method raises ``Unavailable`` when what lies behind the store cannot answer;
    that is never reported as absence.
    """

    @abstractmethod
    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset* on, at most *limit* of them.

        Raises:
            BlobNotFound: before the first chunk, never after it.
            OutOfRange: *offset* is larger than the blob.
        """
        ...

    @abstractmethod
    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        """Keep the blob, all of it or none of it; what is there already may be kept instead.

        If *chunks* raises, nothing is kept and the error passes through: that is how a
        check made further up (see ``VerifiedStore``) refuses a bad upload.
        """
        ...

    @abstractmethod
    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        """Return those of *digests* that are not kept here; the others count as used now."""
        ...

    @abstractmethod
    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        """Return, for each of *digests*, its bytes or why they cannot be had (``BlobNotFound``)."""
        ...

    @abstractmethod
    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        """Keep small blobs, each whole or not at all; return for each an error, or None."""
        ...


async def read_blob(store: BlobStore, digest: Digest) -> bytes:
    """Return the bytes of one small blob.

    Raises:
        BlobNotFound: the store does not hold it.
    """
    found = (await store.get_many([digest]))[digest]
    if isinstance(found, GridwrightError):
        raise found
    return found


async def write_blob(store: BlobStore, digest: Digest, data: bytes) -> None:
    """Keep one small blob, or raise the error that the store gives for it."""
    if error := (await store.put_many({digest: data}))[digest]:
        raise error
