"""How sessions of bots begin and end, in memory and in the database alike."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict

import structlog
from sqlalchemy import Connection

from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import bots
from gridwright_scheduler.database.bots import StoredSession
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.queue.names import BotKey, SessionName, in_instance
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.sessions import Session, Sessions

log = structlog.get_logger(__name__)


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
        held = await self._store(session)
        self._sessions.begin(session)
        for leased in held:
            await asyncio.shield(self._queue.settle(leased.lease_id, Retry(f"worker {bot.bot_id} started anew")))
        log.info("worker_came", worker=bot.bot_id, session=session.name)
        return session

    async def adopt(self, bot: BotKey, name: SessionName) -> Session:
        """Take a session that nobody knows for the bot's own; what the bot still holds by the tables, it keeps.

        An error instead would make a stock worker kill its jobs and exit.

        Raises:
            Unavailable: the database is.
        """
        session = Session(bot, name)
        held = await self._store(session)
        there = self._sessions.find(bot)
        if there is not None and there.name == name:
            return there  # two calls of one bot came at once, and the other was quicker
        session.leases.update(Session(bot, name, held).leases)
        self._sessions.begin(session)
        log.info("worker_adopted", worker=bot.bot_id, session=name, leases=len(held))
        return session

    async def end(self, session: Session, reason: str, *, counted: bool) -> None:
        """End *session*; what its bot held is for others, because of *reason*.

        Raises:
            Unavailable: the database is.
        """
        stored = StoredSession(session.bot, session.name)
        await self._queue.do(lambda connection: bots.end_session(connection, stored))
        self._sessions.end(session)
        for lease in tuple(session.leases.values()):
            if not lease.is_settling:
                await asyncio.shield(self._queue.settle(lease.leased.lease_id, Retry(reason, counted)))
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

    async def _store(self, session: Session) -> list[Leased]:
        stored = StoredSession(session.bot, session.name)

        return await self._queue.do(lambda connection: list(bots.begin_session(connection, stored)))


def _stored(connection: Connection) -> tuple[list[StoredSession], list[Leased]]:
    return list(bots.stored_sessions(connection)), list(bots.all_leased(connection))
