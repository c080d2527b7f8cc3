"""Large uploads, brought from the event loop to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from gridwright.digest import Digest
from gridwright.errors import GridwrightError
from gridwright_cas.stores.segments.engine import Engine
from gridwright_cas.stores.segments.group_commit import GroupCommit
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.large_files import KeptFile
from gridwright_cas.stores.segments.record import MAX_PAYLOAD_BYTES, LargeFileRef
from gridwright_cas.stores.shielded import shielded
from gridwright_cas.stores.writing import Writing

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 16


class Uploader:
    """Writes large files in threads of their own, and makes blobs of them.

    Uploads may wait for room; reads must not wait behind them.
    """

    def __init__(self, engine: Engine, commit: GroupCommit) -> None:
        self._engine = engine
        self._commit = commit
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="segment-uploads")
        #: What must come to an end, also when its caller has gone.
        self._ending: set[asyncio.Task[None]] = set()

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> bytes | None:
        """Keep a large blob; return the bytes of one that turns out to be small, for a record."""
        arriving = aiter(chunks)
        pieces, is_all = await _first_pieces(arriving)
        if is_all:
            return b"".join(pieces)
        upload = self._engine.large_files.begin(digest)
        try:
            writing = Writing(self.threads, upload.write)
            for piece in pieces:
                await writing.add(piece)
            del pieces
            async for chunk in arriving:
                await writing.add(chunk) if chunk else await writing.flush()
            await writing.flush()
            await self.to_its_end(self.keep(digest, upload.finish))
        finally:
            # Shielded: a cancelled upload's file goes as well, once its last write has ended.
            await shielded(self.in_thread(upload.close))
        return None

    async def keep(self, digest: Digest, finish: Callable[[], KeptFile]) -> None:
        """Make a blob of the large file that *finish* brings to the disk; to be done to its end."""
        kept = await self.in_thread(finish)
        key = key_of(digest)
        try:
            superfluous = await self._commit.write(large=[(key, LargeFileRef(kept.file_id, kept.stored_bytes))])
        except GridwrightError:
            # A transaction that failed may have taken effect all the same; then the file is a blob.
            row = self._engine.index.row_of(key)
            if row is None or (row.segment, row.offset) != (0, kept.file_id):
                await self._discard(kept)
            raise
        if kept.file_id in superfluous:
            await self._discard(kept)

    async def keep_small(self, digest: Digest, blob: bytes) -> None:
        """Keep a small blob as a record."""
        await self._commit.write([(key_of(digest), blob)])

    def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have something done in one of the threads for uploads."""
        return asyncio.wrap_future(self.threads.submit(work, *args, **kwargs))

    async def to_its_end(self, work: Coroutine[None, None, None]) -> None:
        """Do *work* to its end, also when whoever waits for it is cancelled."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await shielded(task)

    async def drained(self) -> None:
        """Wait for what must come to an end."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def close(self) -> None:
        """Let the threads go, when they have done what they are at."""
        self.threads.shutdown()

    async def _discard(self, kept: KeptFile) -> None:
        await self.in_thread(self._engine.large_files.discard, kept)


async def _first_pieces(chunks: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
    """Return the chunks of a small blob, or the first ones of another; and whether they are all."""
    pieces: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        pieces.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > MAX_PAYLOAD_BYTES or not chunk:
            return pieces, False
    return pieces, True
