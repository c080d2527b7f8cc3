"""One bot, and what it holds, as the replica that it talks to remembers them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gridwright_scheduler.database.bots import Description
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.leases import MAX_OFFERS, Given
from gridwright_scheduler.queue.names import BotKey, LeaseId, SessionName
from gridwright_scheduler.queue.platform import Offer

#: How long a lease is offered to a bot that goes from scheduler to scheduler, and never reports it.
_OFFERING_SECONDS = 30.0


@dataclass(slots=True)
class HeldLease:
    """A lease that a bot was given."""

    #: The action's version is that of the last change of its row that was made from here.
    leased: Leased
    #: In how many answers it stood.
    offers: int = 0
    #: In how many reports it was ACTIVE.
    reports: int = 0
    #: The bot has reported it COMPLETED, and that is being stored.
    settling: asyncio.Future[Settled | None] | None = None
    #: A serialised ExecutedActionMetadata, as far as the bot has sent it.
    progress: bytes = b""
    #: Whether it was given by another scheduler, or before a restart; what the bot said of it then is not known.
    inherited: bool = False

    @property
    def is_settling(self) -> bool:
        """Whether the end of the lease is being stored; if that failed, the bot will tell of it again."""
        return self.settling is not None and not self.settling.done()


class Session:
    """One bot, from its CreateBotSession until it leaves or falls silent."""

    __slots__ = (
        "_poll",
        "bot",
        "capacity",
        "changed",
        "doubtful",
        "healthy",
        "leases",
        "name",
        "offer",
        "seen_at",
        "stored",
    )

    def __init__(self, bot: BotKey, name: SessionName, leases: Sequence[Leased] = ()) -> None:
        self.bot = bot
        self.name = name
        self.offer = Offer(bot.instance, frozenset(), ours=False)
        self.capacity = 1
        #: Whether the bot says that it is well, and may be given work (checklist BOT-07).
        self.healthy = False
        self.leases = {leased.lease_id: HeldLease(leased, inherited=True) for leased in leases}
        #: What the tables say of the bot; None: that is unknown.
        self.stored: Description | None = None
        #: Whether the leases may be others than these: the tables know.
        self.doubtful = False
        #: When the bot was last heard of, by the monotonic clock: a step of the other one ends no session.
        self.seen_at = 0.0
        #: Hears of whatever may make the bot idle, or no longer so.
        self.changed: Callable[[Session], None] = _ignore
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

    @property
    def is_idle(self) -> bool:
        """Whether the bot waits for work that it has room for."""
        return self._poll is not None and self.healthy and not self.doubtful and self.free_slots > 0

    def describe(self, description: Description) -> None:
        """Note what the bot says of itself."""
        self.offer, self.capacity, self.healthy = description
        self.changed(self)

    def doubt(self) -> None:
        """Give the bot nothing before it has been looked up in the tables."""
        self.doubtful = True
        self.changed(self)

    def given(self, now: float) -> Mapping[LeaseId, Given]:
        """Return the leases in the words of ``queue.leases``."""
        return {
            # How often another scheduler has offered it is not known, only that there was time for it.
            lease_id: Given(
                MAX_OFFERS if lease.inherited and now - lease.leased.leased_at > _OFFERING_SECONDS else lease.offers,
                lease.reports,
            )
            for lease_id, lease in self.leases.items()
        }

    def give(self, leased: Leased) -> None:
        """Let the bot have a lease; a waiting poll is answered with it."""
        self.leases[leased.lease_id] = HeldLease(leased)
        self.wake()
        self.changed(self)

    def take(self, lease_id: LeaseId) -> None:
        """Let the bot no longer have a lease; unless it gave it back, a waiting poll is answered without it."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        if not lease.is_settling and self._poll is not None:
            self._poll.revoked = True
            self.wake()
        self.changed(self)

    def settle(self, lease_id: LeaseId, settling: asyncio.Future[Settled | None]) -> None:
        """Count on the bot being through with a lease, as long as *settling* does not fail."""
        self.leases[lease_id].settling = settling
        settling.add_done_callback(lambda _: self.changed(self))
        self.changed(self)

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
        self.changed(self)
        try:
            yield poll
        finally:
            if self._poll is poll:
                self._poll = None
                self.changed(self)


class Poll:
    """One held call of a bot."""

    __slots__ = ("news", "revoked")

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


def _ignore(session: Session) -> None:
    pass
