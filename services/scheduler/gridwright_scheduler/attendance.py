"""How sessions of bots begin, change hands and end, in memory and in the database alike."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import Aborted, Unavailable
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import bots
from gridwright_scheduler.database.bots import Description, Kept, StoredSession
from gridwright_scheduler.database.claims import Claim, Claimed, Contested, Gained, Superseded, claim_all
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.turns import Commands, Turns
from gridwright_scheduler.queue.names import BotKey, SessionName, in_instance
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

#: How long claims that nobody is in a hurry for wait for others, or for any other reason to have a turn.
_GATHER_SECONDS = 0.1
#: How long after it was contested a bot is claimed again, and how long that goes on.
_AGAIN_SECONDS = 0.02
_CONTEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AttendancePolicy:
    """Whom a scheduler lets in."""

    #: Whether nobody else uses the tables: then what it remembers is right.
    sole: bool
    #: How many bots it has at most.
    max_sessions: int
    #: How much longer than usual the bots of a scheduler that is no more may be silent.
    reattach_seconds: float


class Attendance:
    """Lets bots come and go, also from one scheduler to another.

    A bot belongs to the scheduler that it last called. That one alone gives it leases, so that
    it has no more than it has room for, and remembers what it holds; where several schedulers
    share the tables, each call of a bot makes sure of it first. Its assignments make sure once
    more in their own transaction, which is why claims come after them in a turn: they see the
    bots as they were before.
    """

    def __init__(
        self, queue: ActionQueue, turns: Turns, sessions: Sessions, policy: AttendancePolicy, clock: Clock
    ) -> None:
        self._queue = queue
        self._sessions = sessions
        self._policy = policy
        self._clock = clock
        self._replica = turns.replica.id
        self._claims = Commands[Claim, Claimed](turns, self._apply_claims, committed=self._claimed)
        self._take_overs = Commands[int, Sequence[Kept]](turns, self._apply_take_overs, committed=self._taken_over)
        self._full = False
        #: Those that were silent at the last look.
        self._silent: Set[Session] = frozenset()

    async def begin(self, bot: BotKey, description: Description) -> Session:
        """Begin a session; what the bot held under an older one is for others (checklist BOT-03, BOT-04).

        Raises:
            Unavailable: the database is, or there are too many bots.
        """
        self._check_room(bot)
        stored = StoredSession(bot, SessionName(in_instance(bot.instance, str(uuid.uuid4()))))

        def begin(connection: Connection) -> Sequence[Leased]:
            bots.store_session(connection, stored, description, replica=self._replica)
            return bots.held_by(connection, [bot]).get(bot, ())

        held = await self._queue.do(begin)
        lost = {leased.lease_id for leased in held}
        if older := self._sessions.find(bot):  # it may have been given more meanwhile
            lost.update(lease_id for lease_id, lease in older.leases.items() if not lease.is_settling)
        session = self._begin(stored, description)
        outcome = Retry(f"worker {bot.bot_id} started anew")
        settling = [self._queue.settle(lease_id, outcome) for lease_id in lost]
        await asyncio.gather(*(asyncio.shield(future) for future in settling))
        log.info("worker_came", worker=bot.bot_id, session=session.name)
        return session

    async def attend(self, bot: BotKey, name: SessionName, description: Description, *, hurry: bool) -> Session:
        """Return the session *name* of a bot that has called; what it holds stands in it.

        With *hurry* somebody waits for what the call will bring. A session that is remembered
        is described anew at once.

        Raises:
            Aborted: the bot has begun a newer session.
            Unavailable: the database is, or there are too many bots.
        """
        stored = StoredSession(bot, name)
        within = 0.0 if hurry else _GATHER_SECONDS
        try:
            async with asyncio.timeout(_CONTEST_SECONDS):
                while True:
                    known = self._sessions.find(bot)
                    if known is None:
                        self._check_room(bot)
                    elif known.name == name:
                        known.describe(description)
                    if self._policy.sole and known is not None:
                        if known.name != name:
                            raise _over(stored)
                        if known.stored == description and not known.doubtful:
                            return known
                    claimed = await self._claim(stored, description, within_seconds=within)
                    session = self._sessions.find(bot)
                    if not isinstance(claimed, Contested) and session is not None and session.name == name:
                        return session
                    within = _AGAIN_SECONDS
        except TimeoutError:
            raise Unavailable(f"bot {bot.bot_id} is another scheduler's at the moment; try again") from None

    async def end(self, session: Session, reason: str) -> None:
        """End *session*, whose bot leaves in good order.

        Raises:
            Unavailable: the database is; the session goes on.
        """
        await self._end([session], {session.bot: Retry(reason, counted=False)})

    async def end_silent(self) -> None:
        """End the sessions of bots that fell silent; what they hold is for others (checklist BOT-19).

        A bot that has turned to another scheduler is forgotten, and nothing else. Each is silent at two looks: between
        them are heard those who called while this process was stopped.

        Raises:
            Unavailable: the database is; the sessions go on.
        """
        found = self._sessions.silent()
        silent = [one for one in found if one in self._silent]
        self._silent = set(found)
        for start in range(0, len(silent), bots.CHUNK):
            some = silent[start : start + bots.CHUNK]
            await self._end(some, {one.bot: Retry(f"worker {one.bot.bot_id} stopped answering") for one in some})

    async def adopt_of_dead(self) -> None:
        """Take the bots of schedulers that are no more, which may be an earlier process of this one.

        Raises:
            Unavailable: the database is.
        """
        while (room := self._policy.max_sessions - len(self._sessions)) > 0:
            try:
                kept = await self._take_overs(room)
            except Unavailable:
                # It may be done all the same, and some of these bots may have been here before.
                for session in self._sessions:
                    session.doubt()
                raise
            if len(kept) < min(room, bots.CHUNK):
                return

    async def _claim(self, stored: StoredSession, description: Description, *, within_seconds: float) -> Claimed:
        known = self._sessions.find(stored.bot)
        remembered = known is not None and known.name == stored.name and not known.doubtful
        claim = Claim(stored, description, remembered)
        try:
            claimed = await asyncio.shield(self._claims.send(claim, within_seconds=within_seconds))
        except Unavailable:
            # It may be done all the same, and what is remembered of a bot that was elsewhere is wrong.
            if known is not None:
                known.doubt()
            raise
        if isinstance(claimed, Superseded):
            if known is not None and known.name == stored.name:
                self._sessions.end(known)
            raise _over(stored)
        return claimed

    async def _end(self, sessions: Sequence[Session], outcomes: Mapping[BotKey, Retry]) -> None:
        names = [StoredSession(one.bot, one.name) for one in sessions]
        ended = await self._queue.do(lambda connection: bots.end_sessions(connection, names, replica=self._replica))
        for session in sessions:
            self._sessions.end(session)
        settling = []
        for stored, held in ended.items():
            outcome = outcomes[stored.bot]
            log.info("worker_left", worker=stored.bot.bot_id, session=stored.name, reason=outcome.reason)
            settling += [self._queue.settle(leased.lease_id, outcome) for leased in held]
        await asyncio.gather(*(asyncio.shield(future) for future in settling))

    def _begin(
        self,
        stored: StoredSession,
        description: Description,
        leases: Sequence[Leased] = (),
        *,
        patience_seconds: float = 0.0,
    ) -> Session:
        session = Session(stored.bot, stored.name, leases)
        session.describe(description)
        session.stored = description
        self._sessions.begin(session, patience_seconds=patience_seconds)
        return session

    def _apply_claims(self, connection: Connection, claims: Sequence[Claim]) -> Sequence[Claimed]:
        return claim_all(connection, claims, replica=self._replica, now=self._clock.now())

    def _claimed(self, claim: Claim, claimed: Claimed) -> None:
        session = self._sessions.find(claim.session.bot)
        known = session if session is not None and session.name == claim.session.name else None
        if isinstance(claimed, Gained):
            if known is not None and claimed.forgotten and not known.doubtful:
                return  # two calls of the bot came at once, and the other was quicker
            self._begin(claim.session, claim.description, claimed.leases)
            tell = log.debug if claimed.wandered else log.info
            tell("worker_adopted", worker=claim.session.bot.bot_id, session=claim.session.name)
        elif known is not None and not isinstance(claimed, Contested | Superseded):
            known.stored = claim.description

    def _apply_take_overs(self, connection: Connection, rooms: Sequence[int]) -> Sequence[Sequence[Kept]]:
        now = self._clock.now()
        return [bots.take_over(connection, self._replica, limit=room, now=now) for room in rooms]

    def _taken_over(self, room: int, kept: Sequence[Kept]) -> None:
        for session, description, leases in kept:
            self._begin(session, description, leases, patience_seconds=self._policy.reattach_seconds)

    def _check_room(self, bot: BotKey) -> None:
        full = len(self._sessions) >= self._policy.max_sessions
        if full and not self._full:
            log.warning("too_many_workers", max_sessions=self._policy.max_sessions)
        self._full = full
        if full and self._sessions.find(bot) is None:
            raise Unavailable(
                f"there are {len(self._sessions)} workers here already, which is scheduler.bots.max_sessions; "
                "let there be more, or another scheduler"
            )


def _over(stored: StoredSession) -> Aborted:
    return Aborted(f"session {stored.name} of bot {stored.bot.bot_id} is over: the bot has begun a newer one")
