"""A bound on how long is waited, which a machine that is busy does not use up."""

from __future__ import annotations

import asyncio
from types import TracebackType

_SLICES = 4


def at_most(seconds: float) -> _Bound:
    """Raise ``TimeoutError`` when the block takes longer than *seconds*, during which this process could run.

    A process that was held up finds its timers due and its answers arrived, and a plain
    timeout may look at the timers first: then a Redis that answered at once would seem dead,
    and every caller would hear so. So the time is counted in slices, each of which gives what
    has arrived a chance, however late its own end is noticed.
    """
    return _Bound(seconds)


class _Bound:
    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / _SLICES
        self._left = _SLICES
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(self._slice_seconds, self._end_slice)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    def _end_slice(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._slice_seconds, self._end_slice)
        else:
            self._limit.reschedule(self._loop.time())
