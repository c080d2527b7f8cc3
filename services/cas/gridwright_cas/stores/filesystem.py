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

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.removals import RemovalListener, Removals
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, is_empty, part_of
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, BlobNotFound, GridwrightError, ResourceExhausted
from gridwright_cas.stores.blob_directory import BlobDirectory, Upload
from gridwright_cas.stores.direct_io import LARGE_BYTES, LatelyRead, bypass_cache, read_at
from gridwright_cas.stores.disk_errors import disk_errors

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
_TIDY_SECONDS = 60.0


class FilesystemStore(BlobStore):
    """Keeps each blob in a file of its own and drops the least recently used beyond its bounds.

    The simplest store that survives a restart; what it holds can be looked at with ``ls``.
    ``BlobDirectory`` knows the files and ``BlobIndex`` what is in them; this class keeps the
    event loop free of the disk: small reads are made where they are asked for, everything
    else in threads, one hop per batch, and with a hop under way while the last piece travels.

    When a blob was last used is known in memory, and written to its file's modification
    time at most every ten minutes, so that a restart keeps the order. Blobs that expire go
    within a minute, also while nobody asks for anything.

    A blob that is larger than ``max_bytes`` is refused by the size in its digest: to find
    out while it comes would mean to evict everything for it first.
    """

    def __init__(self, directory: BlobDirectory, clock: Clock) -> None:
        self._directory = directory
        self._index = directory.index
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="filesystem-store")
        self._tidied_at = clock.now()
        self._lately_read = LatelyRead()
        self._removals = Removals()

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, path: Path, clock: Clock, policy: EvictionPolicy, *, temp_path: Path | None = None, durable: bool = True
    ) -> AsyncIterator[Self]:
        """Index the blobs below *path* and keep the directory until the block ends.

        Args:
            policy: when blobs go.
            temp_path: where uploads are written before they get their name, on the same file system.
            durable: whether the bytes of uploads are on the disk when they are acknowledged; see ``BlobDirectory`` for
                their names.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        directory = await asyncio.to_thread(
            BlobDirectory.open, path, policy, clock.now(), temp_path=temp_path, durable=durable
        )
        store = cls(directory, clock)
        loop = asyncio.get_running_loop()
        directory.on_removal = lambda gone: loop.call_soon_threadsafe(store._removals.announce, gone)
        tidying = asyncio.create_task(store._tidy_now_and_then())
        try:
            yield store
        finally:
            tidying.cancel()
            await asyncio.wait([tidying])
            await asyncio.to_thread(store._close)

    def __repr__(self) -> str:
        index = self._index
        bound = f" of {index.policy.max_bytes}" if index.policy.max_bytes else ""
        return f"<FilesystemStore {self._directory.path}: {len(index)} blobs, {index.used_bytes}{bound} bytes>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        if not self._touch(digest):
            raise BlobNotFound(digest)
        if is_empty(digest):
            part_of(digest, 0, offset, limit)
            return
        # Opened here, since a thread's answer to a task that was cancelled meanwhile would stay open for ever.
        descriptor, stored_bytes = self._directory.open_blob(digest)
        reads: deque[Future[bytes]] = deque()
        try:
            offset, end = part_of(digest, stored_bytes, offset, limit)
            if end - offset <= _INLINE_BYTES:
                if offset < end:
                    yield _read(descriptor, digest, offset, end)
                return
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
        if self._is_too_large(digest):
            raise self._too_large(digest)
        arriving = aiter(chunks)
        pieces, is_all = await _first_pieces(arriving)
        if is_all:
            if error := (await self.put_many({digest: b"".join(pieces)}))[digest]:
                raise error
            return
        upload = self._directory.begin(digest, self._clock.now())
        try:
            await self._write(upload, pieces, arriving)
            await self._in_thread(upload.finish, self._clock.now())
        finally:
            # Shielded: a cancelled upload's file goes as well, once its last write has ended.
            await asyncio.shield(self._in_thread(upload.close))

    def on_removal(self, listener: RemovalListener) -> None:
        self._removals.listen(listener)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return {digest for digest in digests if not self._touch(digest)}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        held: list[Digest] = []
        for digest in digests:
            if not self._touch(digest):
                found[digest] = BlobNotFound(digest)
            elif is_empty(digest):
                found[digest] = b""
            else:
                held.append(digest)
        if len(held) <= _INLINE_BLOBS and sum(map(self._index.stored_bytes, held)) <= _INLINE_BYTES:
            return found | self._directory.read_many(held)
        return found | await self._in_thread(self._directory.read_many, held)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        kept: dict[Digest, GridwrightError | None] = {}
        new: dict[Digest, bytes] = {}
        for digest, blob in blobs.items():
            if self._touch(digest):
                kept[digest] = None
            elif self._is_too_large(digest):
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
        there = self._index.touch(digest, now) or is_empty(digest)
        if self._index.has_touches and now - self._tidied_at > _TIDY_SECONDS:
            self._tidied_at = now
            self._threads.submit(self._tidy, now)
        return there

    def _tidy(self, now: float) -> None:
        """Write uses down, and let go of what has expired."""
        self._tidied_at = now
        self._directory.write_touches()
        try:
            self._directory.expire(now)
        except OSError:
            return  # the disk is failing, which those who read or write will hear

    async def _tidy_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            await self._in_thread(self._tidy, self._clock.now())

    def _goes_past_cache(self, digest: Digest, descriptor: int, size_bytes: int) -> bool:
        """Whether a read is so large, and the first for so long, that it is not worth pages of the cache."""
        if size_bytes < LARGE_BYTES or self._lately_read.note(digest, self._clock.now()):
            return False
        with disk_errors():
            return bypass_cache(descriptor)

    async def _write(self, upload: Upload, pieces: list[bytes], chunks: AsyncIterable[bytes]) -> None:
        """Write *pieces*, then *chunks* in pieces of about a MiB, each while the next is awaited."""
        writing = self._threads.submit(upload.write, pieces)
        pieces = []
        size_bytes = 0
        async for chunk in chunks:
            pieces.append(chunk)
            size_bytes += len(chunk)
            if size_bytes >= CHUNK_BYTES or len(pieces) >= _MAX_PIECES or not chunk:
                await asyncio.wrap_future(writing)
                writing = self._threads.submit(upload.write, pieces)
                pieces, size_bytes = [], 0
        await asyncio.wrap_future(writing)
        await self._in_thread(upload.write, pieces)

    def _parts(self, blobs: Mapping[Digest, bytes]) -> list[dict[Digest, bytes]]:
        """Share a batch among threads, where each waits for the disk: they wait together, for one flush."""
        items = list(blobs.items())
        count = min(_SYNC_THREADS, -(-len(items) // _SYNC_BLOBS)) if self._directory.durable else min(1, len(items))
        return [dict(items[start::count]) for start in range(count)]

    def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))

    def _is_too_large(self, digest: Digest) -> bool:
        return 0 < self._index.policy.max_bytes < digest.size_bytes

    def _too_large(self, digest: Digest) -> ResourceExhausted:
        return ResourceExhausted(f"blob {digest} is larger than this store's {self._index.policy.max_bytes} bytes")

    def _close(self) -> None:
        self._threads.shutdown()
        self._directory.write_touches()
        self._directory.close()


async def _first_pieces(chunks: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
    """Return the chunks of a small blob, or the first ones of a larger one; and whether they are all."""
    pieces: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        pieces.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > CHUNK_BYTES:
            return pieces, False
    return pieces, True


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
