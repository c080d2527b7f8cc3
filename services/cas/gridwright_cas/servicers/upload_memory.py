"""How much memory all uploads of this process may take together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from gridwright.errors import ResourceExhausted

#: What one upload has in memory on its way to the disk, at most, unless its messages are larger: a MiB that is
#: written, one that is collected, and those that begin the next ones.
_ON_ITS_WAY_BYTES = 4 * 1024 * 1024
#: How long an upload waits for others to be written before it is sent away.
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 1.0


class UploadMemory:
    """Counts what came and may not be on a disk yet, and has it written early when it is much.

    A fast upload collects a MiB before it writes it. A thousand slow ones that do so as well would take a
    gigabyte; so beyond half of *max_bytes* each may hold its share, and beyond all of it nothing more is read.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._uploads = 0
        self._freed = asyncio.Condition()

    @property
    def held_bytes(self) -> int:
        """What all uploads hold."""
        return self._held_bytes

    async def bounded(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield *chunks* of one upload, and an empty one where what came must be written (see ``ResumableUploads``).

        Raises:
            ResourceExhausted: too much waits to be written already.
        """
        held_bytes = 0
        self._uploads += 1
        try:
            async for chunk in chunks:
                added_bytes = min(len(chunk), max(0, max(_ON_ITS_WAY_BYTES, 2 * len(chunk)) - held_bytes))
                held_bytes += added_bytes
                self._held_bytes += added_bytes
                is_pause = not chunk
                yield chunk
                del chunk
                if is_pause or self._is_too_much(held_bytes):
                    if not is_pause:
                        yield b""
                    await self._release(held_bytes)
                    held_bytes = 0
                    if self._held_bytes >= self._max_bytes:
                        await self._wait()
        finally:
            self._uploads -= 1
            await self._release(held_bytes)

    def _is_too_much(self, held_bytes: int) -> bool:
        """Whether one upload must not hold so much."""
        half = self._max_bytes // 2
        return self._held_bytes > half and held_bytes > half // self._uploads

    async def _release(self, size_bytes: int) -> None:
        if size_bytes:
            self._held_bytes -= size_bytes
            async with self._freed:
                self._freed.notify_all()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._freed:
                await self._freed.wait_for(lambda: self._held_bytes < self._max_bytes)
        except TimeoutError:
            raise ResourceExhausted(
                f"{self._held_bytes} bytes of uploads wait for the disk of the CAS; go on with this one later",
                retry_after_seconds=_RETRY_SECONDS,
            ) from None
