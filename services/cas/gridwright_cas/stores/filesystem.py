"""Blobs as files of a directory, bounded."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import (
    BlobCorrupted,
    BlobNotFound,
    DigestMismatch,
    GridwrightError,
    OutOfRange,
    ResourceExhausted,
)
from gridwright_cas.stores.blob_directory import BlobDirectory, Upload, disk_errors
from gridwright_cas.stores.direct_io import LARGE_BYTES, LatelyRead, bypass_cache, read_at

P = ParamSpec("P")
T = TypeVar("T")

#: Reading so little takes less time than handing it to a thread (about 50 µs).
_INLINE_BYTES = 64 * 1024
_INLINE_BLOBS = 4
#: So many chunks are being read while one travels.
_READ_AHEAD = 2
#: A buffer of so many pieces is written even if they are small.
_MAX_PIECES = 512
_THREADS = 16
#: How many threads synchronise the files of one batch, and for how few files one more is worth it.
_SYNC_THREADS = 8
_SYNC_BLOBS = 4
_FLUSH_SECONDS = 60.0


class FilesystemStore(BlobStore):
    """Keeps each blob in a file of its own and drops the least recently used beyond a bound.

    The simplest store that survives a restart; what it holds can be looked at with ``ls``.
    ``BlobDirectory`` knows the files and ``BlobIndex`` what is in them; this class keeps the
    event loop free of the disk: small reads are made where they are asked for, everything
    else in threads, one hop per batch, and with a hop under way while the last piece travels.

    When a blob was last used is known in memory, and written to its file's modification
    time at most every ten minutes, so that a restart keeps the order.
    """

    def __init__(self, directory: BlobDirectory, clock: Clock) -> None:
        self._directory = directory
        self._index = directory.index
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="filesystem-store")
        self._flushed_at = clock.now()
        self._lately_read = LatelyRead()

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path, clock: Clock, *, max_bytes: int, durable: bool = True) -> AsyncIterator[Self]:
        """Index the blobs below *path* and keep the directory until the block ends.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        directory = await asyncio.to_thread(BlobDirectory.open, path, max_bytes=max_bytes, durable=durable)
        store = cls(directory, clock)
        try:
            yield store
        finally:
            await asyncio.to_thread(store._close)

    def __repr__(self) -> str:
        index = self._index
        return f"<FilesystemStore {self._directory.path}: {len(index)} blobs, {index.used_bytes} of {index.max_bytes}>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        if not self._touch(digest):
            raise BlobNotFound(digest)
        if offset > digest.size_bytes:
            raise OutOfRange(f"offset {offset} is beyond the end of blob {digest}")
        end = digest.size_bytes if limit is None else min(digest.size_bytes, offset + limit)
        if _is_empty(digest):
            return
        if end - offset <= _INLINE_BYTES:
            if blob := self._read_inline(digest, offset, end - offset):
                yield blob
            return
        # Opened here, since a thread's answer to a task that was cancelled meanwhile would stay open for ever.
        descriptor = self._directory.open_blob(digest)
        reads: deque[Future[bytes]] = deque()
        try:
            read = _read_direct if self._goes_past_cache(digest, descriptor, end - offset) else _read
            for start in range(offset, end, CHUNK_BYTES):
                reads.append(self._threads.submit(read, descriptor, digest, start, min(start + CHUNK_BYTES, end)))
                if len(reads) > _READ_AHEAD:
                    yield await asyncio.wrap_future(reads.popleft())
            while reads:
                yield await asyncio.wrap_future(reads.popleft())
        finally:
            if reads:
                self._threads.submit(_close_after, reads, descriptor)
            else:
                os.close(descriptor)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        if digest.size_bytes > self._index.max_bytes:
            raise self._too_large(digest)
        if digest.size_bytes <= CHUNK_BYTES:
            blob = await _gathered(digest, chunks)
            if error := (await self.put_many({digest: blob}))[digest]:
                raise error
            return
        upload = self._directory.begin(digest)
        try:
            await self._write(upload, chunks)
            await self._in_thread(upload.finish, self._clock.now())
        finally:
            # Shielded: a cancelled upload's file goes as well, once its last write has ended.
            await asyncio.shield(self._in_thread(upload.close))

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return {digest for digest in digests if not self._touch(digest)}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        held: list[Digest] = []
        for digest in digests:
            if not self._touch(digest):
                found[digest] = BlobNotFound(digest)
            elif _is_empty(digest):
                found[digest] = b""
            else:
                held.append(digest)
        if len(held) <= _INLINE_BLOBS and sum(digest.size_bytes for digest in held) <= _INLINE_BYTES:
            return found | self._directory.read_many(held)
        return found | await self._in_thread(self._directory.read_many, held)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        kept: dict[Digest, GridwrightError | None] = {}
        new: dict[Digest, bytes] = {}
        for digest, blob in blobs.items():
            if self._touch(digest):
                kept[digest] = None
            elif digest.size_bytes > self._index.max_bytes:
                kept[digest] = self._too_large(digest)
            else:
                new[digest] = blob
        now = self._clock.now()
        for some in await asyncio.gather(
            *(self._in_thread(self._directory.keep_many, part, now) for part in self._parts(new))
        ):
            kept |= some
        return kept

    def _touch(self, digest: Digest) -> bool:
        """Count the blob as used; return whether it is there."""
        now = self._clock.now()
        there = self._index.touch(digest, now) or _is_empty(digest)
        if self._index.has_touches and now - self._flushed_at > _FLUSH_SECONDS:
            self._flushed_at = now
            self._threads.submit(self._directory.write_touches)
        return there

    def _goes_past_cache(self, digest: Digest, descriptor: int, size_bytes: int) -> bool:
        """Whether a read is so large, and the first for so long, that it is not worth pages of the cache."""
        if size_bytes < LARGE_BYTES or self._lately_read.note(digest, self._clock.now()):
            return False
        with disk_errors():
            return bypass_cache(descriptor)

    def _read_inline(self, digest: Digest, offset: int, length: int) -> bytes:
        descriptor = self._directory.open_blob(digest)
        try:
            return _read(descriptor, digest, offset, offset + length) if length else b""
        finally:
            os.close(descriptor)

    async def _write(self, upload: Upload, chunks: AsyncIterable[bytes]) -> None:
        """Write *chunks* in pieces of about a MiB, each while the next is awaited."""
        writing: Future[None] | None = None
        pieces: list[bytes] = []
        size_bytes = 0
        async for chunk in chunks:
            pieces.append(chunk)
            size_bytes += len(chunk)
            if size_bytes >= CHUNK_BYTES or len(pieces) >= _MAX_PIECES:
                if writing is not None:
                    await asyncio.wrap_future(writing)
                writing = self._threads.submit(upload.write, pieces)
                pieces, size_bytes = [], 0
        if writing is not None:
            await asyncio.wrap_future(writing)
        await self._in_thread(upload.write, pieces)

    def _parts(self, blobs: Mapping[Digest, bytes]) -> list[dict[Digest, bytes]]:
        """Share a batch among threads, where each waits for the disk: they wait together, for one flush."""
        items = list(blobs.items())
        count = min(_SYNC_THREADS, -(-len(items) // _SYNC_BLOBS)) if self._directory.durable else min(1, len(items))
        return [dict(items[start::count]) for start in range(count)]

    def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))

    def _too_large(self, digest: Digest) -> ResourceExhausted:
        return ResourceExhausted(f"blob {digest} is larger than this store's {self._index.max_bytes} bytes")

    def _close(self) -> None:
        self._threads.shutdown()
        self._directory.write_touches()
        self._directory.close()


def _is_empty(digest: Digest) -> bool:
    """Whether it is the empty blob, which is always there and never written (checklist LIF-01)."""
    return digest.size_bytes == 0 and digest == digest.function.empty


async def _gathered(digest: Digest, chunks: AsyncIterable[bytes]) -> bytes:
    """Return a small blob in one piece."""
    pieces: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > digest.size_bytes:
            raise DigestMismatch(f"blob {digest} came with more bytes than that")
        pieces.append(chunk)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read(descriptor: int, digest: Digest, offset: int, end: int) -> bytes:
    with disk_errors():
        chunk = os.pread(descriptor, end - offset, offset)
    if len(chunk) < end - offset:
        raise BlobCorrupted(digest)
    return chunk


def _read_direct(descriptor: int, digest: Digest, offset: int, end: int) -> bytes:
    with disk_errors():
        chunk = read_at(descriptor, end - offset, offset)
    if len(chunk) < end - offset:
        raise BlobCorrupted(digest)
    return chunk


def _close_after(reads: Collection[Future[bytes]], descriptor: int) -> None:
    """Close the file once no thread reads it: a reader that was cancelled may have left some at it."""
    wait(reads)
    os.close(descriptor)
