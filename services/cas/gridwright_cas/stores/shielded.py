"""What goes on when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def shielded(work: asyncio.Future[T]) -> T:
    """Wait for *work*, which goes on to its end where the caller is cancelled.

    ``asyncio.shield`` alone would have Python tell of an error that nobody is left to hear as if it were a bug.
    """
    work.add_done_callback(_hear)
    return await asyncio.shield(work)


def _hear(work: asyncio.Future[T]) -> None:
    if not work.cancelled():
        work.exception()
