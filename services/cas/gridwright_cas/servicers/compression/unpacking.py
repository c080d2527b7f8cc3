"""How much of what clients sent compressed may be in memory decompressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gridwright.errors import ResourceExhausted

#: Of one batch, whose compressed bytes may be 3.5 MiB: sources shrink to a tenth of their size.
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
#: Of all batches of this process together.
_TOTAL_BYTES = 2 * MAX_UNPACKED_BYTES
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 1.0


class UnpackingRoom:
    """Lets compressed batches in while what they unpack to has room in memory.

    What comes over the wire is bounded by the sizes of messages; what it becomes would be
    bounded by nothing but the number of callers.
    """

    def __init__(self, total_bytes: int = _TOTAL_BYTES) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, size_bytes: int) -> AsyncIterator[None]:
        """Take room for *size_bytes*, at most all of it, while the block runs.

        Raises:
            ResourceExhausted: there is none for too long.
        """
        size_bytes = min(size_bytes, self._total_bytes)
        if size_bytes == 0:
            yield
            return
        async with self._freed:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._freed.wait_for(lambda: self._used_bytes + size_bytes <= self._total_bytes)
            except TimeoutError:
                raise ResourceExhausted(
                    "too many compressed batches are being unpacked; send this one again",
                    retry_after_seconds=_RETRY_SECONDS,
                ) from None
            self._used_bytes += size_bytes
        try:
            yield
        finally:
            self._used_bytes -= size_bytes
            async with self._freed:
                self._freed.notify_all()
