"""Small blobs are kept in one store, large ones in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Set
from typing import TypeAlias, TypeVar

from gridwright.blobs.removals import RemovalListener
from gridwright.blobs.resumable import ResumableUploads
from gridwright.blobs.store import BlobStore
from gridwright.blobs.stored_frames import StoredFrames, ZstdFrames
from gridwright.digest import Digest
from gridwright.errors import GridwrightError

T = TypeVar("T")
GetMany: TypeAlias = Callable[[Collection[Digest]], Coroutine[object, object, Mapping[Digest, T | GridwrightError]]]


class SizePartitionedStore(BlobStore):
    """Keeps blobs of fewer than *size* bytes in *lower*, others in *upper*.

    What is best for a thousand small files (memory, a log) is seldom best for one large one.
    The size is the one in the digest, so each blob has one place, whatever is stored of it.
    """

    def __init__(self, size: int, lower: BlobStore, upper: BlobStore) -> None:
        self._size = size
        self._lower = lower
        self._upper = upper

    def __repr__(self) -> str:
        return f"<SizePartitionedStore below {self._size} bytes {self._lower!r}, from there on {self._upper!r}>"

    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._store_of(digest).get(digest, offset=offset, limit=limit)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await self._store_of(digest).put(digest, chunks)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        size = self._size
        small = {digest for digest in digests if digest.size_bytes < size}
        if len(small) == len(digests):
            return await self._lower.missing(digests)
        if not small:
            return await self._upper.missing(digests)
        lower, upper = await asyncio.gather(
            _settled(self._lower.missing(small)), _settled(self._upper.missing(digests - small))
        )
        return _value(lower) | _value(upper)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return await _get_many(self._size, self._lower.get_many, self._upper.get_many, digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        small = [digest for digest in blobs if digest.size_bytes < self._size]
        if len(small) == len(blobs):
            return await self._lower.put_many(blobs)
        if not small:
            return await self._upper.put_many(blobs)
        large = [digest for digest in blobs if digest.size_bytes >= self._size]
        lower, upper = await asyncio.gather(
            _settled(self._lower.put_many({digest: blobs[digest] for digest in small})),
            _settled(self._upper.put_many({digest: blobs[digest] for digest in large})),
        )
        return {**_answers(small, lower), **_answers(large, upper)}

    def resumable_uploads(self, digest: Digest) -> ResumableUploads | None:
        return self._store_of(digest).resumable_uploads(digest)

    @property
    def stored_frames(self) -> StoredFrames:
        return _PartitionedFrames(self._size, self._lower.stored_frames, self._upper.stored_frames)

    def on_removal(self, listener: RemovalListener) -> None:
        self._lower.on_removal(listener)
        self._upper.on_removal(listener)

    @property
    def announces_removals(self) -> bool:
        return self._lower.announces_removals and self._upper.announces_removals

    def _store_of(self, digest: Digest) -> BlobStore:
        return self._lower if digest.size_bytes < self._size else self._upper


class _PartitionedFrames(StoredFrames):
    def __init__(self, size: int, lower: StoredFrames, upper: StoredFrames) -> None:
        self._size = size
        self._lower = lower
        self._upper = upper

    def get(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes | ZstdFrames]:
        half = self._lower if digest.size_bytes < self._size else self._upper
        return half.get(digest, offset=offset)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
        return await _get_many(self._size, self._lower.get_many, self._upper.get_many, digests)


async def _get_many(
    size: int, lower: GetMany[T], upper: GetMany[T], digests: Collection[Digest]
) -> Mapping[Digest, T | GridwrightError]:
    small = [digest for digest in digests if digest.size_bytes < size]
    if len(small) == len(digests):
        return await lower(digests)
    if not small:
        return await upper(digests)
    large = [digest for digest in digests if digest.size_bytes >= size]
    of_lower, of_upper = await asyncio.gather(_settled(lower(small)), _settled(upper(large)))
    return {**_answers(small, of_lower), **_answers(large, of_upper)}


async def _settled(answer: Awaitable[T]) -> T | GridwrightError:
    """Wait for one half whatever becomes of the other, so that neither is left running."""
    try:
        return await answer
    except GridwrightError as error:
        return error


def _value(answer: T | GridwrightError) -> T:
    if isinstance(answer, GridwrightError):
        raise answer
    return answer


def _answers(
    digests: Collection[Digest], answer: Mapping[Digest, T] | GridwrightError
) -> Mapping[Digest, T | GridwrightError]:
    """Return the answer for each digest; if one half fails, only its blobs do."""
    return dict.fromkeys(digests, answer) if isinstance(answer, GridwrightError) else answer
