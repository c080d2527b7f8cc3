"""Taking up an upload that another call may still be about to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from gridwright.errors import Aborted
from gridwright_cas.stores.shielded import shielded

#: A call that goes on where another broke off waits so long for that one to be noticed.
_PATIENCE_SECONDS = 5.0
_ASK_SECONDS = 0.05


class Closable(Protocol):
    """An upload that was taken up."""

    def close(self) -> None:
        """Leave it to whoever comes next."""


C = TypeVar("C", bound=Closable)


async def taken_up(threads: ThreadPoolExecutor, open_: Callable[[], C], offset: int) -> C:
    """Return what *open_* returns in a thread; at its beginning there is nothing to be waited for.

    Raises:
        Aborted: somebody is at this upload, and stays.
        GridwrightError: what *open_* raises.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _PATIENCE_SECONDS
    while True:
        opening = threads.submit(open_)
        try:
            return await shielded(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        except Aborted:
            if offset == 0 or loop.time() >= give_up:
                raise
        await asyncio.sleep(_ASK_SECONDS)  # the lock is one of the kernel's, which announces nothing


def _close_opened(opening: Future[C]) -> None:
    """Leave an upload that was opened for a caller who has gone."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
