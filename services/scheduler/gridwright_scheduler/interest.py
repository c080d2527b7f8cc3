"""Who still wants to know of an operation; what nobody wants to know of is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import Unavailable
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.operations import Operations, attend
from gridwright_scheduler.database.turns import Commands, Turns
from gridwright_scheduler.queue.names import OperationName

log = structlog.get_logger(__name__)

#: The longest time from one look at who waits to the next.
_MAX_ROUND_SECONDS = 10.0
_ROUNDS_PER_PATIENCE = 4
#: What was attended to less than this part of a round ago is not written again.
_FRESH = 0.5
#: An operation that somebody waits for is written at least so often, in rounds: its patience begins after that.
_STALE = 1.0 + _FRESH
#: Operations that one turn writes, or that one look cancels at a time.
_CHUNK = 500
#: Far more than can be asked for in one round; beyond it, who only asks, and does not wait, may be overlooked.
_MAX_ASKED = 100_000


class Interest:
    """Remembers until when somebody was interested in operations, and cancels those that nobody is interested in.

    A client that goes away without a word would else cost a worker until its actions have
    ended. An open stream counts, and so does each question for the operation: a client that
    comes back within *abandon_after_seconds*, to any scheduler, finds its operation. To hang
    up, or to ask, writes nothing: once in a while each scheduler writes for all that wait
    with it.

    Args:
        abandon_after_seconds: how long an operation goes on without interest; 0: until its end.
    """

    def __init__(
        self,
        queue: ActionQueue,
        turns: Turns,
        operations: Operations,
        board: Board,
        clock: Clock,
        *,
        abandon_after_seconds: float,
    ) -> None:
        self._queue = queue
        # A step after all others: operations are locked when their turn waits for no other lock any more.
        self._attend = Commands[Sequence[OperationName], None](turns, self._attend_all)
        self._operations = operations
        self._board = board
        self._clock = clock
        self._abandon_after_seconds = abandon_after_seconds
        self._round_seconds = min(_MAX_ROUND_SECONDS, abandon_after_seconds / _ROUNDS_PER_PATIENCE)
        self._asked: set[OperationName] = set()
        #: Since when all who wait have been written down in time, as far as this process knows.
        self._sure_since = clock.monotonic()

    def asked(self, operation: OperationName) -> None:
        """Take note that somebody has asked for *operation*."""
        if self._abandon_after_seconds and len(self._asked) < _MAX_ASKED:
            self._asked.add(operation)

    async def run(self, leads: Callable[[], bool]) -> None:
        """Look who waits until cancelled, and, while this scheduler *leads*, cancel what nobody waits for."""
        if not self._abandon_after_seconds:
            return
        while True:
            slept_at = self._clock.monotonic()
            await asyncio.sleep(self._round_seconds)
            if not leads() or self._clock.monotonic() - slept_at > self._abandon_after_seconds:
                # While the leader was away, or all of us, the others may not have been able to write.
                self._sure_since = self._clock.monotonic()
            try:
                await self.attend()
                if leads():
                    await self.cancel_abandoned()
            except Unavailable as error:
                # The others could not write either: whoever waits has yet to be written down.
                self._sure_since = self._clock.monotonic()
                log.warning("interest_not_kept", error=str(error))

    async def attend(self) -> None:
        """Write down that somebody is interested in what is waited for, or was asked for, at this scheduler.

        Raises:
            Unavailable: the database is.
        """
        asked = frozenset(self._asked)
        names = list(asked.union(self._board.attended()))
        for start in range(0, len(names), _CHUNK):
            await self._attend(names[start : start + _CHUNK])
        self._asked -= asked

    async def cancel_abandoned(self) -> None:
        """Cancel the operations that nobody has been interested in for too long.

        None is before this scheduler has led for as long: after a restart their clients need time to come back, and
        after an outage of the database those who wait need time to be written down.

        Raises:
            Unavailable: the database is.
        """
        if self._clock.monotonic() - self._sure_since < self._abandon_after_seconds:
            return
        before = self._clock.now() - self._abandon_after_seconds - _STALE * self._round_seconds
        while names := await self._operations.unattended(before=before, limit=_CHUNK):
            log.info("operations_abandoned", operations=len(names), one=names[0])
            await self._queue.cancel_all(names)

    def _attend_all(self, connection: Connection, commands: Sequence[Sequence[OperationName]]) -> Sequence[None]:
        now = self._clock.now()
        for names in commands:
            attend(connection, names, before=now - _FRESH * self._round_seconds, now=now)
        return [None for _ in commands]
