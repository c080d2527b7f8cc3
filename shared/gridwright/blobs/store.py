"""The interface of everything that keeps blobs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set
from typing import Protocol

from gridwright.blobs.removals import RemovalListener
from gridwright.blobs.resumable import ResumableUploads
from gridwright.blobs.stored_frames import PlainFrames, StoredFrames
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, OutOfRange

#: The size of the pieces in which stores hand out bytes: large enough that the cost of a
#: chunk vanishes, small enough that a hundred concurrent reads fit in memory.
CHUNK_BYTES = 1024 * 1024


class BlobStore(Protocol):
    """Keeps blobs under the digest of their bytes.

    A leaf keeps bytes (memory, disk, another CAS over gRPC). A decorator holds another
    store and changes one thing about it. Both look the same from outside, so a whole
    storage policy is a nest of constructors in ``app.py``. Bulk is the common case: a
    decorator forwards bulk as bulk.

    A leaf keeps the bytes that come under a digest, however many they are, and remembers
    how many: ``VerifiedStore`` alone compares them with the digest, so that a decorator
    may keep other bytes under it, as ``CompressedStore`` does. The empty blob of every
    digest function exists always, and is never kept.

    Every method raises ``Unavailable`` when what lies behind the store cannot answer;
    that is never reported as absence.
    """

    @abstractmethod
    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        """Yield the blob's bytes from *offset* on, at most *limit* of them.

        A negative *offset* counts from the end, for footers: -8 begins at the last eight
        bytes, or at the first one where there are fewer.

        Whoever passes chunks on lets go of each before it asks for the next one: where a
        hundred streams wait for the disk, or for their readers, each would hold a MiB more.

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

    def resumable_uploads(self, digest: Digest) -> ResumableUploads | None:
        """Return where an upload of *digest* can be taken up again after it broke off, if this store offers that.

        It checks the bytes itself. A decorator that leaves blobs as they are forwards this; one that makes other
        bytes of them, or copies, cannot.
        """
        return None

    @property
    def stored_frames(self) -> StoredFrames:
        """The same blobs, read as they are kept.

        A store that compresses them shows its frames; a decorator that changes no bytes forwards those behind it.
        """
        return PlainFrames(self)

    def on_removal(self, listener: RemovalListener) -> None:
        """Call *listener*, on the event loop, after blobs went: evicted, expired, or found corrupt.

        A decorator forwards this to the store that decides what is missing; a leaf has ``Removals``.
        """
        return None

    @property
    def announces_removals(self) -> bool:
        """Whether a listener hears of every removal; where none can (a CAS elsewhere), caches need a time limit.

        A store that has not heard of listeners announces nothing; a decorator forwards the question.
        """
        return type(self).on_removal is not BlobStore.on_removal


def is_empty(digest: Digest) -> bool:
    """Whether it is the empty blob, which is always there and never kept (checklist LIF-01)."""
    return digest.size_bytes == 0 and digest == digest.function.empty


def part_of(digest: Digest, stored_bytes: int, offset: int, limit: int | None) -> tuple[int, int]:
    """Return where a read begins and ends in the *stored_bytes* that are kept under *digest*.

    Raises:
        OutOfRange: *offset* is larger than the blob.
    """
    if offset > stored_bytes:
        raise OutOfRange(f"offset {offset} is beyond the end of blob {digest}")
    start = offset if offset >= 0 else max(0, stored_bytes + offset)
    return start, stored_bytes if limit is None else min(stored_bytes, start + limit)


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
