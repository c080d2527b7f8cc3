"""What a scheduler knows of its bots, without clients and servers round it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TypeVar

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from gridwright.testing.clock import FakeClock
from gridwright_scheduler.action_queue import ActionQueue, QueuePolicy
from gridwright_scheduler.attendance import Attendance, AttendancePolicy
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.assignments import Bounds
from gridwright_scheduler.database.bots import Description
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turns import Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.lease_look import LeaseLook
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.queue.platform import Offer
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions
from tests.scheduler.bare_queue import BareQueue

T = TypeVar("T")

BOT = BotKey("main", "bot")
WELL = Description(Offer("main", frozenset({("OSFamily", "linux")}), ours=True), 1, healthy=True)
SILENCE_SECONDS = 15.0
REATTACH_SECONDS = 20.0


class FickleDatabase(Database):
    """Counts transactions that write, and can leave what became of one in the dark."""

    def __init__(self, inner: Database) -> None:
        self.sole = inner.sole
        self._inner = inner
        self.writes = 0
        self.commit_unanswered = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        self.writes += 1
        result = await self._inner.write(work)
        if self.commit_unanswered:
            raise OperationalError("COMMIT", None, ConnectionError("hung up"))
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._inner.read(work)

    def notify(self, connection: Connection, topics: Collection[Topic]) -> None:
        self._inner.notify(connection, topics)

    async def listen(self, heard: Callable[[Topic], None]) -> None:
        await self._inner.listen(heard)


class Reception:
    """The bots of one scheduler."""

    def __init__(self, database: Database, clock: FakeClock, *, max_sessions: int = 100) -> None:
        self.database = FickleDatabase(database)
        self.clock = clock
        self.replica = Replica(alone=True)
        self.turns = Turns(self.database, self.replica)
        self.sessions = Sessions(clock, silence_seconds=SILENCE_SECONDS)
        metrics, board = QueueMetrics(CollectorRegistry()), Board()
        dispatcher = Dispatcher(
            self.turns, self.sessions, board, Bounds(600.0, 3600.0), clock, metrics=metrics, fenced=True
        )
        policy = QueuePolicy(max_queued=1000, max_attempts=5)
        self.queue = ActionQueue(self.turns, dispatcher, self.sessions, board, policy, clock, metrics)
        self.turns.add(dispatcher)
        attendance = AttendancePolicy(sole=False, max_sessions=max_sessions, reattach_seconds=REATTACH_SECONDS)
        self.attendance = Attendance(self.queue, self.turns, self.sessions, attendance, clock)
        self.look = LeaseLook(self.database, self.queue, self.sessions, self.replica.id, clock)
        #: The queue in the tables, as this scheduler gives from it.
        self.tables = BareQueue(database, replica=self.replica.id)

    async def come(self, bot: BotKey = BOT, description: Description = WELL) -> Session:
        """Let a bot begin a session, and say that it is well."""
        session = await self.attendance.begin(bot, description._replace(healthy=False))
        return await self.call(session.name, bot, description)

    async def call(
        self, name: SessionName, bot: BotKey = BOT, description: Description = WELL, *, hurry: bool = True
    ) -> Session:
        """Let a bot call."""
        return await self.attendance.attend(bot, name, description, hurry=hurry)


@asynccontextmanager
async def open_reception(database: Database, clock: FakeClock, *, max_sessions: int = 100) -> AsyncIterator[Reception]:
    """Run a scheduler's attendance."""
    reception = Reception(database, clock, max_sessions=max_sessions)
    turning = asyncio.create_task(reception.turns.run())
    try:
        yield reception
    finally:
        turning.cancel()
        await asyncio.wait([turning])
