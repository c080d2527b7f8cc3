"""How sessions of bots begin and end, in memory and in the database alike."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import structlog
from sqlalchemy import Connection

from gridwright.errors import Aborted
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import bots
from gridwright_scheduler.database.bots import StoredSession
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.names import BotKey, LeaseId, SessionName, in_instance
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.sessions import Session, Sessions

log = structlog.get_logger(__name__)

Settling = Sequence[asyncio.Future[Settled | None]]


class Attendance:
    """Lets bots come and go."""

    def __init__(self, queue: ActionQueue, sessions: Sessions) -> None:
        self._queue = queue
        self._sessions = sessions

    async def begin(self, bot: BotKey) -> Session:
        """Begin a session; what the bot held under an older one is for others (checklist BOT-03, BOT-04).

        Raises:
            Unavailable: the database is.
        """
        session = Session(bot, SessionName(in_instance(bot.instance, str(uuid.uuid4()))))
        stored = StoredSession(bot, session.name)
        held = await self._queue.do(lambda connection: bots.begin_session(connection, stored))
        lost = {leased.lease_id for leased in held}
        if older := self._sessions.find(bot):  # it may have been given more meanwhile
            lost.update(_unsettled(older))
        self._sessions.begin(session)
        await _committed(self._send(lost, Retry(f"worker {bot.bot_id} started anew")))
        log.info("worker_came", worker=bot.bot_id, session=session.name)
        return session

    async def adopt(self, bot: BotKey, name: SessionName) -> Session:
        """Take a session that nobody knows for the bot's own; what the bot still holds by the tables, it keeps.

        An error instead would make a stock worker kill its jobs and exit.

        Raises:
            Aborted: the bot has begun a newer session at the same time.
            Unavailable: the database is.
        """
        stored = StoredSession(bot, name)
        held = await self._queue.do(lambda connection: bots.adopt_session(connection, stored))
        there = self._sessions.find(bot)
        if there is not None and there.name == name:
            return there  # two calls of one bot came at once, and the other was quicker
        if held is None or there is not None:
            raise Aborted(f"session {name} of bot {bot.bot_id} is over: the bot has begun a newer one")
        session = Session(bot, name, held)
        self._sessions.begin(session)
        log.info("worker_adopted", worker=bot.bot_id, session=name, leases=len(held))
        return session

    async def end(self, session: Session, reason: str, *, counted: bool) -> None:
        """End *session*; what its bot held is for others, because of *reason*.

        All of it is sent at once, and so is one transaction: if that fails, the session goes on.

        Raises:
            Unavailable: the database is.
        """
        stored = StoredSession(session.bot, session.name)
        settling = self._send(_unsettled(session), Retry(reason, counted))
        await self._queue.do(lambda connection: bots.end_session(connection, stored))
        self._sessions.end(session)
        await _committed(settling)
        log.info("worker_left", worker=session.bot.bot_id, session=session.name, reason=reason)

    async def restore(self, *, patience_seconds: float) -> None:
        """Bring back the sessions that an earlier process knew; their bots have *patience_seconds* to say a word."""
        stored, leased = await self._queue.do(_stored)
        held: defaultdict[BotKey, list[Leased]] = defaultdict(list)
        for one in leased:
            held[one.bot].append(one)
        for bot, name in stored:
            self._sessions.begin(Session(bot, name, held.pop(bot, ())), patience_seconds=patience_seconds)
        for leases in held.values():
            for one in leases:
                await self._queue.settle(one.lease_id, Retry(f"worker {one.bot.bot_id} is unknown", counted=False))

    def _send(self, leases: Iterable[LeaseId], outcome: Retry) -> Settling:
        return [self._queue.settle(lease_id, outcome) for lease_id in leases]


async def _committed(settling: Settling) -> None:
    await asyncio.gather(*(asyncio.shield(future) for future in settling))


def _unsettled(session: Session) -> Collection[LeaseId]:
    return [lease_id for lease_id, lease in session.leases.items() if not lease.is_settling]


def _stored(connection: Connection) -> tuple[list[StoredSession], list[Leased]]:
    return list(bots.stored_sessions(connection)), list(bots.all_leased(connection))
