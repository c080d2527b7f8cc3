"""How much more may be queued."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from sqlalchemy import Connection, bindparam, func, select

from gridwright_scheduler.database.schema import actions, in_state
from gridwright_scheduler.queue.states import ActionState

#: While the queue is full it is not counted more often.
_COUNTED_AGAIN_AFTER_SECONDS = 1.0

_COUNT = select(func.count()).select_from(
    select(actions.c.id).where(in_state(ActionState.QUEUED)).limit(bindparam("limit")).subquery()
)


class QueueRoom:
    """Keeps the queue from growing beyond a limit, without counting it in every turn.

    It adds up what this process does. What others do, and what is cancelled or refused, a
    count finds out, which there is when the limit seems to be reached: so the limit is
    kept to the action by one scheduler, and by several together up to as much for each.
    """

    def __init__(self, limit: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._monotonic = monotonic
        self._queued = limit  # which has the table counted first
        self._counted_at = -math.inf

    def left(self, connection: Connection, wanted: int) -> int:
        """Return for how many more there is room, of *wanted* or more."""
        now = self._monotonic()
        if self._queued + wanted > self.limit and now - self._counted_at >= _COUNTED_AGAIN_AFTER_SECONDS:
            self._queued = connection.execute(_COUNT, {"limit": self.limit}).scalar_one()
            self._counted_at = now
        return self.limit - self._queued

    def came(self, number: int) -> None:
        """Note that *number* actions were queued."""
        self._queued += number

    def went(self, number: int) -> None:
        """Note that *number* actions are no longer queued."""
        self._queued = max(0, self._queued - number)
