"""Sends the blobs of an action that the CAS does not have yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

from gridwright.blobs.repeated_put import put_repeatedly
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest
from gridwright_cli.execute.input_tree import Source, UnusableInput


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
    small = {digest: blobs[digest] for digest in missing if digest.size_bytes <= CHUNK_BYTES}
    if small:
        for digest, error in (await store.put_many(_Contents(small))).items():
            if error is not None:
                raise _explained(error, blobs[digest]) from None
    for digest in missing - small.keys():
        await _stream(store, digest, blobs[digest])


class _Contents(Mapping[Digest, bytes]):
    """The bytes of small blobs, each read when it is asked for, as the store makes up its batches."""

    def __init__(self, sources: Mapping[Digest, Source]) -> None:
        self._sources = sources

    def __getitem__(self, digest: Digest) -> bytes:
        return _bytes_of(self._sources[digest])

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


async def _stream(store: BlobStore, digest: Digest, source: Source) -> None:
    try:
        await put_repeatedly(store, digest, lambda: _chunks_of(source))
    except InvalidRequest as error:
        raise _explained(error, source) from None


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
