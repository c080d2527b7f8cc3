"""Uploads are checked here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import DigestMismatch, GridwrightError

#: Hashing fewer bytes takes less time than handing them to a thread.
_INLINE_BYTES = 128 * 1024


class VerifiedStore(BlobStore):
    """Refuses blobs whose bytes are not those that their digest names.

    A CAS that keeps wrong bytes poisons every build that shares it, so no client is trusted
    (checklist DIG-20). The check rides in the stream, in one pass: the store below sees an
    upload that breaks off, and keeps nothing.
    """

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"<VerifiedStore of {self._inner!r}>"

    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._inner.get(digest, offset=offset, limit=limit)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        """Keep the blob.

        Raises:
            DigestMismatch: too many bytes came (as soon as that is known), too few, or others.
        """
        await self._inner.put(digest, _verified(digest, chunks))

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return await self._inner.missing(digests)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return await self._inner.get_many(digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        if sum(map(len, blobs.values())) <= _INLINE_BYTES:
            refused = _mismatches(blobs)
        else:
            refused = await asyncio.to_thread(_mismatches, blobs)
        good = {digest: blob for digest, blob in blobs.items() if digest not in refused} if refused else blobs
        return {**(await self._inner.put_many(good) if good else {}), **refused}


async def _verified(digest: Digest, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Pass *chunks* on, and raise at the end, or as soon as it is known, if they are not the blob.

    A large chunk is hashed in a thread while the store below writes it and the next one arrives.
    """
    loop = asyncio.get_running_loop()
    hasher = digest.function.new()
    hashing: asyncio.Future[object] | None = None
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > digest.size_bytes:
            raise DigestMismatch(f"more than {digest.size_bytes} bytes came for blob {digest}")
        if hashing is not None:
            await hashing
            hashing = None
        if len(chunk) > _INLINE_BYTES:
            hashing = loop.run_in_executor(None, hasher.update, chunk)
        else:
            hasher.update(chunk)
        yield chunk
    if hashing is not None:
        await hashing
    if size_bytes < digest.size_bytes:
        raise DigestMismatch(f"only {size_bytes} bytes came for blob {digest}")
    if hasher.hexdigest() != digest.hash:
        raise DigestMismatch(f"the bytes that came for blob {digest} have the hash {hasher.hexdigest()}")


def _mismatches(blobs: Mapping[Digest, bytes]) -> dict[Digest, DigestMismatch]:
    mismatches: dict[Digest, DigestMismatch] = {}
    for digest, blob in blobs.items():
        actual = digest.function.digest(blob)
        if actual != digest:
            mismatches[digest] = DigestMismatch(f"the bytes that came for blob {digest} are those of {actual}")
    return mismatches
