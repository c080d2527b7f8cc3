"""Looks at the tables for what other schedulers have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from gridwright.errors import Unavailable
from gridwright_scheduler.board import Board
from gridwright_scheduler.database import changes
from gridwright_scheduler.database.engine import Database, reading
from gridwright_scheduler.queue.names import ActionId

log = structlog.get_logger(__name__)

#: How often is looked without being asked to: notices are lost, and some changes nobody tells of.
EVERY_SECONDS = 2.0
#: How long is rested after a look, in times of what that took, and at most: so a look that is wanted all the time takes
#: a quarter of the time.
_REST = 3.0
_LONGEST_REST_SECONDS = 0.1
#: Rows that one statement looks for.
_CHUNK = 500
#: The largest responses have 8 MiB each.
_RESPONSES = 8


class Look:
    """Something that is looked at when somebody wants it to be, and by itself now and then.

    It is one look at a time, however many want it: whoever does while one goes on, which may
    have passed what he means already, has another one begin when it ends.
    """

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Have a look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Look until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            begun = clock()
            try:
                await self._look()
            except Unavailable as error:
                log.warning("look_failed", error=str(error))
            await asyncio.sleep(min(_REST * (clock() - begun), _LONGEST_REST_SECONDS))


class WatchedLook:
    """Finds changes of what is watched here that other schedulers made."""

    def __init__(self, database: Database, board: Board) -> None:
        self._database = database
        self._board = board

    async def __call__(self) -> None:
        """Show those who watch something what they do not know yet.

        Raises:
            Unavailable: the database is.
        """
        await self._look_at_actions()
        await self._look_for_cancelled()

    async def _look_at_actions(self) -> None:
        known = list(self._board.watched().items())
        done: list[ActionId] = []
        for start in range(0, len(known), _CHUNK):
            some = dict(known[start : start + _CHUNK])
            found = await reading(self._database, partial(changes.newer, known=some))
            done += found.completed
            for snapshot in found.going_on:
                self._board.publish(snapshot)
            for action in found.gone:
                self._board.lose(action)
        for start in range(0, len(done), _RESPONSES):
            few = done[start : start + _RESPONSES]
            for snapshot in await reading(self._database, partial(changes.snapshots, ids=few)):
                self._board.publish(snapshot)

    async def _look_for_cancelled(self) -> None:
        waiting = self._board.waiting()
        for start in range(0, len(waiting), _CHUNK):
            some = waiting[start : start + _CHUNK]
            for name in await reading(self._database, partial(changes.cancelled, names=some)):
                self._board.cancel(name)
