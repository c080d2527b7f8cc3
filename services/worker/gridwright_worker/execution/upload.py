"""Outputs on their way to the CAS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

from gridwright.blobs.repeated_put import put_repeatedly
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest
from gridwright_worker.execution.batches import SMALL_BYTES, batches
from gridwright_worker.execution.concurrently import all_of
from gridwright_worker.execution.threads import in_thread

#: Below this sum, sending what may be there already is cheaper than to ask first.
_UNASKED_BYTES = 64 * 1024
_MAX_TRANSFERS = 4


async def upload(store: BlobStore, blobs: Mapping[Digest, bytes | str]) -> None:
    """Have all of *blobs* in the CAS; a value is the bytes, or the path of a file that has them.

    Raises:
        Unavailable: the CAS cannot be reached.
        ResourceExhausted: it is full.
    """
    wanted: Collection[Digest] = [digest for digest in blobs if digest != digest.function.empty]
    if sum(digest.size_bytes for digest in wanted) > _UNASKED_BYTES:
        wanted = await store.missing(set(wanted))
    if not wanted:
        return
    transfers = asyncio.Semaphore(_MAX_TRANSFERS)
    small = [digest for digest in wanted if digest.size_bytes <= SMALL_BYTES]
    large = [digest for digest in wanted if digest.size_bytes > SMALL_BYTES]
    await all_of(
        [
            *(_put_batch(store, {digest: blobs[digest] for digest in batch}, transfers) for batch in batches(small)),
            *(_put_large(store, digest, blobs[digest], transfers) for digest in large),
        ]
    )


async def _put_batch(store: BlobStore, blobs: Mapping[Digest, bytes | str], transfers: asyncio.Semaphore) -> None:
    async with transfers:
        if any(isinstance(source, str) for source in blobs.values()):
            whole = await in_thread(_read_all, blobs)
        else:
            whole = {digest: source for digest, source in blobs.items() if isinstance(source, bytes)}
        for error in (await store.put_many(whole)).values():
            if error is not None:
                raise error


async def _put_large(store: BlobStore, digest: Digest, source: bytes | str, transfers: asyncio.Semaphore) -> None:
    async with transfers:
        await put_repeatedly(store, digest, lambda: _chunks_of(source))


async def _chunks_of(source: bytes | str) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with open(source, "rb", buffering=0) as file:  # noqa: ASYNC230  # opening takes less than a hop
        while chunk := await in_thread(file.read, CHUNK_BYTES):
            yield chunk


def _read_all(blobs: Mapping[Digest, bytes | str]) -> dict[Digest, bytes]:
    whole: dict[Digest, bytes] = {}
    for digest, source in blobs.items():
        if isinstance(source, str):
            with open(source, "rb") as file:
                whole[digest] = file.read()
        else:
            whole[digest] = source
    return whole
