"""Sends the blobs of an action that the CAS does not have yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest, Unavailable
from gridwright_cli.execute.input_tree import Source, UnusableInput

#: Larger blobs are streamed from their file, smaller ones travel together.
_SMALL_BYTES = 1024 * 1024
#: How much is held in memory at once.
_BATCH_BYTES = 8 * 1024 * 1024
_TRIES = 5
_FIRST_DELAY_SECONDS = 0.2


async def upload(store: BlobStore, blobs: Mapping[Digest, Source], on_progress: Callable[[str], None]) -> None:
    """Bring *blobs* into *store*, as far as they are not there.

    Raises:
        UnusableInput: a file cannot be read, or is another one than it was when it was hashed.
        GridwrightError: the store refuses one, or cannot be reached.
    """
    missing = await store.missing(blobs.keys())
    if not missing:
        return
    on_progress(f"uploading {len(missing)} of {len(blobs)} blobs, {sum(one.size_bytes for one in missing):,} bytes")
    for batch in _batches(sorted(missing, key=lambda digest: digest.size_bytes)):
        if len(batch) == 1 and batch[0].size_bytes > _SMALL_BYTES:
            await _stream(store, batch[0], blobs[batch[0]])
            continue
        read = await asyncio.to_thread(_read, batch, blobs)
        for digest, error in (await store.put_many(read)).items():
            if error is not None:
                raise _explained(error, blobs[digest]) from None


def _batches(digests: list[Digest]) -> Iterator[list[Digest]]:
    """Yield small blobs together and large ones alone; *digests* come smallest first."""
    batch: list[Digest] = []
    size_bytes = 0
    for digest in digests:
        if batch and (digest.size_bytes > _SMALL_BYTES or size_bytes + digest.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(digest)
        size_bytes += digest.size_bytes
    if batch:
        yield batch


async def _stream(store: BlobStore, digest: Digest, source: Source) -> None:
    delay = _FIRST_DELAY_SECONDS
    for last in (*[False] * (_TRIES - 1), True):
        try:
            await store.put(digest, _chunks_of(source))
            return
        except Unavailable:
            if last:
                raise
        except InvalidRequest as error:
            raise _explained(error, source) from None
        await asyncio.sleep(delay)
        delay *= 2


async def _chunks_of(source: Source) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    try:
        with source.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise UnusableInput(f"cannot read {source}: {error.strerror}") from None


def _read(batch: Iterable[Digest], blobs: Mapping[Digest, Source]) -> dict[Digest, bytes]:
    return {digest: _bytes_of(blobs[digest]) for digest in batch}


def _bytes_of(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise UnusableInput(f"cannot read {source}: {error.strerror}") from None


def _explained(error: Exception, source: Source) -> Exception:
    """The server says that bytes and digest disagree: they agreed when we read the file first."""
    if isinstance(error, InvalidRequest) and isinstance(source, Path):
        return UnusableInput(f"{source} changed while it was uploaded ({error})")
    return error
