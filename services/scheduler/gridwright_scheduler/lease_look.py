"""Looks at the tables for bots and leases that are not what this scheduler remembers of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import bots
from gridwright_scheduler.database.bots import StoredSession
from gridwright_scheduler.database.engine import Database, reading
from gridwright_scheduler.queue.names import LeaseId, ReplicaId
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions

K = TypeVar("K", bound=Hashable)

#: How long something must have been amiss that may be so for a moment: it is on its way into memory.
_ORPHANED_SECONDS = 5.0
#: How long a bot must have been unknown here that the tables say is here; longer than it takes to find it silent.
_GHOST_SECONDS = 30.0


class _Found(NamedTuple):
    """What the tables say, looked at in this order."""

    leases: Collection[LeaseId]
    #: None: nothing hints at bots that have come or gone.
    sessions: Collection[StoredSession] | None


class LeaseLook:
    """Puts right what other schedulers have done to the bots of this one, and what has got lost on the way.

    - A lease that another scheduler has ended, say by a cancellation, is taken from its bot.
    - A bot that has turned to another scheduler while it is held here is let go.
    - A lease that no bot holds goes to others, for example since the database failed as its bot left.
    - A bot that hung up while its session began, and never came back, is forgotten.
    """

    def __init__(self, database: Database, queue: ActionQueue, sessions: Sessions, replica: ReplicaId, clock: Clock):
        self._database = database
        self._queue = queue
        self._sessions = sessions
        self._replica = replica
        self._orphans = _Suspects[LeaseId](clock, _ORPHANED_SECONDS)
        self._ghosts = _Suspects[StoredSession](clock, _GHOST_SECONDS)

    async def __call__(self) -> None:
        """Look once.

        Raises:
            Unavailable: the database is.
        """
        remembered = list(self._sessions)
        held = {
            lease_id: session
            for session in remembered
            for lease_id, lease in session.leases.items()
            if not lease.is_settling
        }
        found = await reading(self._database, lambda connection: self._look(connection, held, len(remembered)))
        if found.sessions is not None:
            self._let_go([one for one in remembered if _stored(one) not in found.sessions])
        for lease_id in held.keys() - found.leases:
            if self._sessions.find(held[lease_id].bot) is held[lease_id]:
                held[lease_id].take(lease_id)
        await self._give_back_orphans(found.leases)
        if found.sessions is not None:
            await self._forget_ghosts(found.sessions)

    def _look(self, connection: Connection, held: Collection[LeaseId], remembered: int) -> _Found:
        leases = bots.own_leases(connection, self._replica)
        # A bot that is gone has taken its leases along.
        if leases.issuperset(held) and bots.count_own(connection, self._replica) == remembered:
            return _Found(leases, None)
        return _Found(leases, bots.own_sessions(connection, self._replica))

    def _let_go(self, gone: Collection[Session]) -> None:
        for session in gone:
            # One that does not poll is found silent, unless it comes back.
            if session.polling and self._sessions.find(session.bot) is session:
                self._sessions.end(session)

    async def _give_back_orphans(self, leases: Collection[LeaseId]) -> None:
        held = {lease_id for session in self._sessions for lease_id in session.leases}
        outcome = Retry("its worker left", counted=False)
        settling = [self._queue.settle(one, outcome) for one in self._orphans.confirmed(set(leases) - held)]
        await asyncio.gather(*(asyncio.shield(one) for one in settling))

    async def _forget_ghosts(self, own: Collection[StoredSession]) -> None:
        remembered = {_stored(session) for session in self._sessions}
        ghosts = list(self._ghosts.confirmed(set(own) - remembered))[: bots.CHUNK]
        if ghosts:
            await self._queue.do(lambda connection: bots.end_sessions(connection, ghosts, replica=self._replica))


class _Suspects(Generic[K]):
    """What is amiss, and since when."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._since: dict[K, float] = {}

    def confirmed(self, suspects: Collection[K]) -> Collection[K]:
        """Return those of *suspects* that have been so at each look for long enough."""
        now = self._clock.monotonic()
        self._since = {one: self._since.get(one, now) for one in suspects}
        return [one for one, since in self._since.items() if now - since >= self._seconds]


def _stored(session: Session) -> StoredSession:
    return StoredSession(session.bot, session.name)
