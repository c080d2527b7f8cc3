"""How a scheduler is known to be alive, and knows who else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gridwright.errors import Unavailable
from gridwright_scheduler.database import replicas
from gridwright_scheduler.database.dialect import database_time
from gridwright_scheduler.database.engine import Database, no_answer
from gridwright_scheduler.database.replicas import Replica, Seen
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.shifted_clock import ShiftedClock

log = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0


class Heartbeat:
    """Says in the tables, every two seconds, that *replica* is alive, and keeps it and *clock* up to date.

    Where the scheduler has the tables to itself there is nobody to tell, and nothing is done.
    """

    def __init__(self, database: Database, replica: Replica, clock: ShiftedClock) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Be among the living while the block runs, from which on others hear of this one, to their leave.

        Raises:
            Unavailable: the database is.
        """
        if self._database.sole:
            yield
            return
        await self._beat(first=True)
        try:
            yield
        finally:
            await self._leave()

    async def run(self) -> None:
        """Go on saying so until cancelled."""
        while not self._database.sole:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._beat(first=False)
            except Unavailable as error:
                log.warning("heartbeat_failed", error=str(error))

    async def _leave(self) -> None:
        try:
            await self._database.write(lambda connection: replicas.leave(connection, self._replica.id))
        except SQLAlchemyError as error:
            log.warning("replica_left_without_a_word", error=str(error))

    async def _beat(self, *, first: bool) -> None:
        def beat(connection: Connection) -> Sequence[Seen]:
            asked_at = self._clock.monotonic()
            now = database_time(connection)
            self._clock.measured(now, since=asked_at)
            alive = replicas.appear(connection, self._replica.id, now=now)
            if first:
                self._database.notify(connection, list(Topic))
            return alive

        try:
            alive = await self._database.write(beat)
        except SQLAlchemyError as error:
            raise no_answer() from error
        leads = alive[0].id == self._replica.id
        if leads != self._replica.leads:
            log.info("replica_leads" if leads else "replica_follows", replica=self._replica.id, alive=len(alive))
        self._replica.leads = leads
        self._replica.alone = len(alive) == 1
