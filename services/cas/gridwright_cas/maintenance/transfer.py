"""Brings blobs into a store, and out of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.clock import SystemClock
from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, DigestMismatch, GridwrightError, InvalidRequest
from gridwright_cas.maintenance.contents import blob_in, codec_of
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.rows import rows_of
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory, open_directory, settings_of
from gridwright_cas.maintenance.stored_blobs import stored, stored_at
from gridwright_cas.stores.codecs import Codec, FrameCorrupted
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.segments.key import digest_of
from gridwright_cas.stores.segments.store import SegmentStore
from gridwright_cas.stores.verified import VerifiedStore

_SMALL_BYTES = 256 * 1024
#: Small blobs are put together, 32 MiB at most.
_TOGETHER = 128
#: So many blobs are asked how the store keeps its blobs.
_ASKED = 100


def get(directory: OpenDirectory, messages: Messages, stop: Stop, digest: Digest, fd: int) -> None:
    """Write a blob to the file descriptor *fd*, decompressed if need be. It does not count as used.

    Raises:
        BlobNotFound: it is not there.
        BlobCorrupted: it is not what its digest says, which may show at the end only.
        OSError: it cannot be written.
    """
    hasher = digest.function.new()
    done = 0
    if digest != digest.function.empty:
        with stored(directory, digest) as found:
            try:
                for piece in blob_in(digest, found):
                    stop.check()
                    hasher.update(piece)
                    _write(fd, piece)
                    done += len(piece)
                    messages.progress("fetching", done, digest.size_bytes, "bytes")
            except FrameCorrupted:
                raise BlobCorrupted(digest) from None
    if (hasher.hexdigest(), done) != (digest.hash, digest.size_bytes):
        raise BlobCorrupted(digest)
    messages.result({"bytes": done})


def put(path: Path, files: Mapping[Digest, Path], messages: Messages, stop: Stop) -> None:
    """Keep files under their digests, each of which is checked, in the way in which the store keeps its other blobs.

    Raises:
        DigestMismatch: a file is not the one that was hashed; it is named.
        ResourceExhausted: there is no room.
        OSError: a file cannot be read.
    """
    with open_directory(path) as directory:
        codec = _codec_in_use(directory)
    asyncio.run(_put(path, codec, _Upload(files, messages, stop)))


async def _put(path: Path, codec: Codec | None, upload: _Upload) -> None:
    async with SegmentStore.opened(path, SystemClock(), settings_of(path)) as segments:
        await upload.into(VerifiedStore(segments if codec is None else CompressedStore(segments, codec)))


class _Upload:
    """The files of one command on their way into a store."""

    def __init__(self, files: Mapping[Digest, Path], messages: Messages, stop: Stop) -> None:
        self._files = files
        self._messages = messages
        self._stop = stop
        self._total = sum(digest.size_bytes for digest in files)
        self._done = 0

    async def into(self, store: BlobStore) -> None:
        """Put all of them into *store*."""
        missing = await store.missing(self._files.keys())
        small = iter([digest for digest in missing if digest.size_bytes <= _SMALL_BYTES])
        while batch := list(islice(small, _TOGETHER)):
            self._stop.check()
            await self._put_many(store, batch)
        for digest in missing:
            if digest.size_bytes > _SMALL_BYTES:
                await self._put(store, digest)
        self._messages.result({"blobs": len(missing)})

    async def _put_many(self, store: BlobStore, batch: Sequence[Digest]) -> None:
        kept = await store.put_many({digest: self._files[digest].read_bytes() for digest in batch})
        for digest, error in kept.items():
            if error is not None:
                raise self._explained(error, digest)
            self._count(digest.size_bytes)

    async def _put(self, store: BlobStore, digest: Digest) -> None:
        try:
            await store.put(digest, self._chunks(digest))
        except DigestMismatch as error:
            raise self._explained(error, digest) from None

    async def _chunks(self, digest: Digest) -> AsyncIterator[bytes]:
        with self._files[digest].open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                self._stop.check()
                yield chunk
                self._count(len(chunk))

    def _count(self, size_bytes: int) -> None:
        self._done += size_bytes
        self._messages.progress("storing", self._done, self._total, "bytes")

    def _explained(self, error: GridwrightError, digest: Digest) -> GridwrightError:
        if isinstance(error, DigestMismatch):
            return InvalidRequest(f"{self._files[digest]} changed while it was stored ({error})")
        return error


def _codec_in_use(directory: OpenDirectory) -> Codec | None:
    """Return how a ``compression`` store in front of this directory compresses, if the blobs here tell of one.

    Such a store understands no blob that is not compressed.
    """
    for key, row in next(rows_of(directory.engine.index), [])[:_ASKED]:
        digest = digest_of(key)
        if row.stored_bytes == digest.size_bytes:
            continue
        try:
            with stored_at(directory, key, row) as found:
                return codec_of(digest, found)
        except GridwrightError:
            continue
    return None


def _write(fd: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(fd, left) :]
