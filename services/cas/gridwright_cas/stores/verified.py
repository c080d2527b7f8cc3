"""Uploads are checked here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.resumable import ResumableUploads
from gridwright.blobs.store import BlobStore
from gridwright.blobs.stored_frames import StoredFrames
from gridwright.digest import Digest
from gridwright.errors import DigestMismatch, GridwrightError

#: Hashing fewer bytes takes less time than handing them to a thread.
_INLINE_BYTES = 128 * 1024
#: hashlib keeps the interpreter's lock for fewer bytes, so another thread would only take turns with this one.
_UNLOCKED_BYTES = 2048


class VerifiedStore(ForwardingStore):
    """Refuses blobs whose bytes are not those that their digest names.

    A CAS that keeps wrong bytes poisons every build that shares it, so no client is trusted
    (checklist DIG-20). The check rides in the stream, in one pass: the store below sees an
    upload that breaks off, and keeps nothing.

    Args:
        verify_size: whether sizes are compared.
        verify_hash: whether hashes are; off, it trusts whoever may write.
    """

    def __init__(self, inner: BlobStore, *, verify_size: bool = True, verify_hash: bool = True) -> None:
        super().__init__(inner)
        self._verify_size = verify_size
        self._verify_hash = verify_hash

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        """Keep the blob.

        Raises:
            DigestMismatch: too many bytes came (as soon as that is known), too few, or others.
        """
        if self._verify_size:
            chunks = _size_verified(digest, chunks)
        if self._verify_hash:
            chunks = _hash_verified(digest, chunks)
        await self._inner.put(digest, chunks)

    def resumable_uploads(self, digest: Digest) -> ResumableUploads | None:
        return self._inner.resumable_uploads(digest)  # which check what comes, whatever is verified here

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        refused = _wrong_sizes(blobs) if self._verify_size else {}
        if self._verify_hash:
            if sum([size for size in map(len, blobs.values()) if size >= _UNLOCKED_BYTES]) <= _INLINE_BYTES:
                refused |= _wrong_hashes(blobs)
            else:
                refused |= await asyncio.to_thread(_wrong_hashes, blobs)
        good = {digest: blob for digest, blob in blobs.items() if digest not in refused} if refused else blobs
        return {**(await self._inner.put_many(good) if good else {}), **refused}

    @property
    def stored_frames(self) -> StoredFrames:
        return self._inner.stored_frames


async def _size_verified(digest: Digest, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Pass *chunks* on, and raise as soon as they are too many, or at the end if they are too few."""
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > digest.size_bytes:
            raise DigestMismatch(f"more than {digest.size_bytes} bytes came for blob {digest}")
        yield chunk
        del chunk
    if size_bytes < digest.size_bytes:
        raise DigestMismatch(f"only {size_bytes} bytes came for blob {digest}")


async def _hash_verified(digest: Digest, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Pass *chunks* on, and raise at the end if they are not the blob.

    A large chunk is hashed in a thread while the store below writes it and the next one arrives.
    """
    loop = asyncio.get_running_loop()
    hasher = digest.function.new()
    hashing: asyncio.Future[object] | None = None
    async for chunk in chunks:
        if hashing is not None:
            await hashing
            hashing = None
        if len(chunk) > _INLINE_BYTES:
            hashing = loop.run_in_executor(None, hasher.update, chunk)
        else:
            hasher.update(chunk)
        yield chunk
        del chunk
    if hashing is not None:
        await hashing
    if hasher.hexdigest() != digest.hash:
        raise DigestMismatch(f"the bytes that came for blob {digest} have the hash {hasher.hexdigest()}")


def _wrong_sizes(blobs: Mapping[Digest, bytes]) -> dict[Digest, GridwrightError]:
    return {
        digest: DigestMismatch(f"{len(blob)} bytes came for blob {digest}")
        for digest, blob in blobs.items()
        if len(blob) != digest.size_bytes
    }


def _wrong_hashes(blobs: Mapping[Digest, bytes]) -> dict[Digest, GridwrightError]:
    wrong: dict[Digest, GridwrightError] = {}
    for digest, blob in blobs.items():
        hasher = digest.function.new()
        hasher.update(blob)
        if (actual := hasher.hexdigest()) != digest.hash:
            wrong[digest] = DigestMismatch(f"the bytes that came for blob {digest} have the hash {actual}")
    return wrong
