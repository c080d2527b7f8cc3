"""The reads under way in this process, and how much of each is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.errors import ResourceExhausted
from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright_cas.servicers.read_response import read_response

#: The messages of all reads together, of which each is in memory twice until its reader takes it.
_MESSAGES_BYTES = 8 * 1024 * 1024
#: Smaller ones cost more to send than their bytes.
_MIN_MESSAGE_BYTES = 64 * 1024
#: A read of no more than this is over at once, as a connection takes so much unasked.
_NO_MATTER_BYTES = 64 * 1024
#: How long a read waits for others to end before it is sent away. Most end at once, and clients try only some times.
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class Reads:
    """Sends few readers large messages and many readers small ones, so that slow ones cannot take much memory.

    Args:
        memory_bytes: what the chunks of all reads may take together. A reader that stands still has one, so many of
            them must not keep the others waiting for ever, nor fill the memory.
    """

    def __init__(self, memory_bytes: int = 800_000_000) -> None:
        self._memory_bytes = memory_bytes
        self._count = 0
        self._chunks_bytes = 0
        #: Set when a read has ended.
        self._freed = asyncio.Event()

    async def messages(self, chunks: AsyncIterator[bytes], size_bytes: int) -> AsyncGenerator[pb.ReadResponse, None]:
        """Yield *chunks* of one read, of a blob of *size_bytes*, as messages.

        Raises:
            ResourceExhausted: too much is being read, and stays so.
        """
        held_bytes = min(size_bytes, CHUNK_BYTES) if size_bytes > _NO_MATTER_BYTES else 0
        if not self._has_room(held_bytes):
            await self._wait_for_room(held_bytes)
        self._count += 1
        self._chunks_bytes += held_bytes
        try:
            async with aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    message_bytes = max(_MIN_MESSAGE_BYTES, min(CHUNK_BYTES, _MESSAGES_BYTES // self._count))
                    view = memoryview(chunk)
                    del chunk
                    for start in range(0, len(view), message_bytes):
                        yield read_response(view[start : start + message_bytes])
                    del view  # which keeps the chunk while the next one comes
        finally:
            self._count -= 1
            self._chunks_bytes -= held_bytes
            self._freed.set()

    def _has_room(self, needed_bytes: int) -> bool:
        return not needed_bytes or self._chunks_bytes + needed_bytes <= max(self._memory_bytes, needed_bytes)

    async def _wait_for_room(self, needed_bytes: int) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while not self._has_room(needed_bytes):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise ResourceExhausted(
                f"{self._count} reads are under way; try again in a moment", retry_after_seconds=_RETRY_SECONDS
            ) from None
