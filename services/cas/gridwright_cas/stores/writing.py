"""Pieces of a stream on their way into a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from gridwright.blobs.store import CHUNK_BYTES
from gridwright_cas.stores.shielded import shielded

#: A buffer of so many pieces is written even if they are small.
_MAX_PIECES = 512


class Writing:
    """Has a MiB or two of pieces at a time written, in a thread, while the next ones are collected.

    Args:
        work: what is done to all pieces in their order; of several, each in a thread of its own.
    """

    def __init__(self, threads: Executor, *work: Callable[[Sequence[bytes]], None]) -> None:
        self._threads = threads
        self._work = work
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._under_way: list[Future[None]] = []

    async def add(self, chunk: bytes) -> None:
        """Have *chunk* written, now or with what follows; raises what was raised about those before it."""
        self._pieces.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes >= CHUNK_BYTES or len(self._pieces) >= _MAX_PIECES:
            await self._write_next()

    async def flush(self) -> None:
        """Return when all has been written."""
        if self._pieces:
            await self._write_next()
        await self._last()

    async def _write_next(self) -> None:
        await self._last()
        self._under_way = [self._threads.submit(work, self._pieces) for work in self._work]
        self._pieces, self._size_bytes = [], 0

    async def _last(self) -> None:
        for one in self._under_way:
            # Shielded: a write that is dropped because its caller has gone would leave a hole.
            await shielded(asyncio.wrap_future(one))
        self._under_way = []
