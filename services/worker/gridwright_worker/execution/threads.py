"""Work on files in a thread, without leaving it behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *function* in a thread; a hop costs some 60 µs, so give it a whole step of work.

    Unlike ``asyncio.to_thread`` this does not return before the thread is through, also
    when it is cancelled: who comes next may use the same files.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen, so that asyncio does not complain of it
        raise
