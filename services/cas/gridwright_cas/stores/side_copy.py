"""A copy of a stream, made while it passes by."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest

#: So many chunks wait for a store that is slower than the stream.
_MAX_CHUNKS = 4
#: A copy that holds the stream up for so long is given up.
_PATIENCE_SECONDS = 2.0


class SideCopy:
    """Puts into a second store what passes by on its way elsewhere.

    One pass serves both; and whatever the second store does, fail or hang, the stream goes
    on. The copy is kept only by ``finish``: left before that, the block gives it up, and the
    second store keeps nothing.
    """

    def __init__(self, store: BlobStore, digest: Digest) -> None:
        self._chunks: deque[bytes] = deque()
        self._ended = False
        #: Set when a chunk, or the end, has come; and when there is room for one more.
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._writing = asyncio.create_task(store.put(digest, self._arriving()))
        self._writing.add_done_callback(self._end)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._writing.cancel():
            await asyncio.wait([self._writing], timeout=_PATIENCE_SECONDS)

    async def add(self, chunk: bytes) -> None:
        """Copy *chunk*, unless the copy has failed."""
        while len(self._chunks) >= _MAX_CHUNKS and not self._writing.done():
            self._room.clear()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._room.wait()
            except TimeoutError:
                self._writing.cancel()
                return
        if not self._writing.done():
            self._chunks.append(chunk)
            self._came.set()

    async def finish(self) -> bool:
        """Let the store keep the copy; return whether it does."""
        self._ended = True
        self._came.set()
        done, _ = await asyncio.wait([self._writing], timeout=_PATIENCE_SECONDS)
        return bool(done) and not self._writing.cancelled() and self._writing.exception() is None

    def _end(self, writing: asyncio.Task[None]) -> None:
        self._room.set()
        if not writing.cancelled():
            writing.exception()  # asked for, or asyncio reports that nobody did

    async def _arriving(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._chunks.popleft()
                self._room.set()
            if self._ended:
                return
            self._came.clear()
            await self._came.wait()
