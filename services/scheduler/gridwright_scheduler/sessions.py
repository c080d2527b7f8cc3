"""The bots that this process talks to, and what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.leases import Given
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import BotKey, LeaseId, SessionName
from gridwright_scheduler.queue.platform import Offer


@dataclass(slots=True)
class HeldLease:
    """A lease that a bot was given."""

    leased: Leased
    #: In how many answers it stood.
    offers: int = 0
    #: In how many reports it was ACTIVE.
    reports: int = 0
    #: The bot has reported it COMPLETED, and that is being stored.
    settling: asyncio.Future[Settled | None] | None = None
    #: A serialised ExecutedActionMetadata, as far as the bot has sent it.
    progress: bytes = b""
    #: When the bot first reported it ACTIVE.
    active_since: float = 0.0

    @property
    def is_settling(self) -> bool:
        """Whether the end of the lease is being stored; if that failed, the bot will tell of it again."""
        return self.settling is not None and not self.settling.done()


class Session:
    """One bot, from its CreateBotSession until it leaves or falls silent."""

    def __init__(self, bot: BotKey, name: SessionName, leases: Sequence[Leased] = ()) -> None:
        self.bot = bot
        self.name = name
        self.offer = Offer(bot.instance, frozenset(), ours=False)
        self.capacity = 1
        #: Whether the bot says that it is well, and may be given work (checklist BOT-07).
        self.healthy = False
        self.leases = {leased.lease_id: HeldLease(leased) for leased in leases}
        #: When the bot was last heard of, by the monotonic clock: a step of the other one ends no session.
        self.seen_at = 0.0
        self._poll: Poll | None = None

    def __repr__(self) -> str:
        return f"<Session {self.name} of {self.bot.bot_id}: {len(self.leases)} of {self.capacity} leases>"

    @property
    def free_slots(self) -> int:
        """For how many leases more there is room."""
        return self.capacity - sum(1 for lease in self.leases.values() if not lease.is_settling)

    @property
    def polling(self) -> bool:
        """Whether the bot waits for an answer, and so could be given work right now."""
        return self._poll is not None

    def given(self) -> Mapping[LeaseId, Given]:
        """Return the leases in the words of ``queue.leases``."""
        return {lease_id: Given(lease.offers, lease.reports) for lease_id, lease in self.leases.items()}

    def give(self, leased: Leased) -> None:
        """Let the bot have a lease; a waiting poll is answered with it."""
        self.leases[leased.lease_id] = HeldLease(leased)
        self.wake()

    def take(self, lease_id: LeaseId) -> None:
        """Let the bot no longer have a lease; unless it gave it back, a waiting poll is answered without it."""
        lease = self.leases.pop(lease_id, None)
        if lease is not None and not lease.is_settling and self._poll is not None:
            self._poll.revoked = True
            self.wake()

    def wake(self) -> None:
        """Have a waiting poll answered."""
        if self._poll is not None:
            self._poll.news.set()

    def is_answered_by(self, poll: Poll) -> bool:
        """Whether the bot hears the answer to *poll*, and has not hung up and asked anew."""
        return self._poll is poll

    @contextmanager
    def poll(self) -> Iterator[Poll]:
        """Wait for work; an older poll of the bot, which it has hung up on, ends."""
        self.wake()
        poll = self._poll = Poll()
        try:
            yield poll
        finally:
            if self._poll is poll:
                self._poll = None


class Poll:
    """One held call of a bot."""

    def __init__(self) -> None:
        #: Set when there is something to answer.
        self.news = asyncio.Event()
        #: Whether a lease was taken that the bot is still at.
        self.revoked = False

    async def wait(self, seconds: float) -> None:
        """Wait for something to answer, *seconds* at most."""
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            pass


class Sessions:
    """The sessions of all bots, one for each."""

    def __init__(self, clock: Clock, *, silence_seconds: float) -> None:
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._by_bot: dict[BotKey, Session] = {}
        self._stopping = False

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_bot.values()))

    def __len__(self) -> int:
        return len(self._by_bot)

    def find(self, bot: BotKey) -> Session | None:
        """Return the session of *bot*, if it has one."""
        return self._by_bot.get(bot)

    def begin(self, session: Session, *, patience_seconds: float = 0.0) -> None:
        """Make *session* the one of its bot; it may be silent for *patience_seconds* more than others at first."""
        session.seen_at = self._clock.monotonic() + patience_seconds
        older = self._by_bot.get(session.bot)
        self._by_bot[session.bot] = session
        if older is not None:
            older.wake()

    def end(self, session: Session) -> None:
        """Forget *session*, if it is still the one of its bot."""
        if self._by_bot.get(session.bot) is session:
            del self._by_bot[session.bot]
        session.wake()

    def heard_of(self, session: Session) -> None:
        """Note that the bot is alive."""
        session.seen_at = self._clock.monotonic()

    def silent(self) -> Sequence[Session]:
        """Return the sessions of which nothing was heard for too long."""
        limit = self._clock.monotonic() - self._silence_seconds
        return [one for one in self._by_bot.values() if not one.polling and one.seen_at < limit]

    def idle(self) -> Sequence[IdleWorker]:
        """Return the bots that wait for work now."""
        if self._stopping:
            return ()
        return [
            IdleWorker(one.bot, one.offer, one.free_slots)
            for one in self._by_bot.values()
            if one.polling and one.healthy and one.free_slots > 0
        ]

    def offers(self) -> set[Offer]:
        """Return what the bots that are well have, busy or not."""
        return {one.offer for one in self._by_bot.values() if one.healthy}

    @property
    def stopping(self) -> bool:
        """Whether polls are no longer held, and no work is given."""
        return self._stopping

    def stop(self) -> None:
        """Answer all held polls, and hold none from now on."""
        self._stopping = True
        for session in self._by_bot.values():
            session.wake()
