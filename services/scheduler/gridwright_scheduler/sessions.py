"""The bots that this process talks to, found by whatever is asked of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice, takewhile

from gridwright.clock import Clock
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import BotKey
from gridwright_scheduler.queue.platform import Offer
from gridwright_scheduler.session import Session


class Sessions:
    """The sessions of all bots, one for each.

    There may be many thousands, nearly all of them idle and silent for good reason, so those
    that wait for work and those that may be gone are found without looking at the others.
    """

    def __init__(self, clock: Clock, *, silence_seconds: float) -> None:
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._by_bot: dict[BotKey, Session] = {}
        #: Those that wait for work, longest first.
        self._idle: defaultdict[Offer, dict[BotKey, Session]] = defaultdict(dict)
        self._idle_under: dict[BotKey, Offer] = {}
        #: Those that do not poll at the moment, longest first; and those of them that are given time to come back.
        self._quiet: dict[BotKey, Session] = {}
        self._awaited: dict[BotKey, Session] = {}
        self._stopping = False

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_bot.values()))

    def __len__(self) -> int:
        return len(self._by_bot)

    def find(self, bot: BotKey) -> Session | None:
        """Return the session of *bot*, if it has one."""
        return self._by_bot.get(bot)

    def begin(self, session: Session, *, patience_seconds: float = 0.0) -> None:
        """Make *session* the one of its bot; it may be silent for *patience_seconds* more than others at first.

        All that begin with some patience have the same.
        """
        older = self._by_bot.get(session.bot)
        if older is not None:
            self.end(older)
        self._by_bot[session.bot] = session
        session.seen_at = self._clock.monotonic() + patience_seconds
        if patience_seconds:
            self._awaited[session.bot] = session
        session.changed = self._changed
        self._changed(session)

    def end(self, session: Session) -> None:
        """Forget *session*, if it is still the one of its bot, and have its poll answered."""
        if self._by_bot.get(session.bot) is session:
            session.changed = _ignore
            del self._by_bot[session.bot]
            self._be_idle(session, under=None)
            self._quiet.pop(session.bot, None)
            self._awaited.pop(session.bot, None)
        session.wake()

    def silent(self) -> Sequence[Session]:
        """Return the sessions of which nothing was heard for too long."""
        limit = self._clock.monotonic() - self._silence_seconds
        lines = (self._quiet, self._awaited)
        return [*chain.from_iterable(takewhile(lambda one: one.seen_at < limit, line.values()) for line in lines)]

    def idle_offers(self) -> Collection[Offer]:
        """Return what the bots have that wait for work now."""
        return () if self._stopping else self._idle.keys()

    def idle(self, offers: Collection[Offer] | None = None, limit: int | None = None) -> Sequence[IdleWorker]:
        """Return the bots that wait for work now, those with one of *offers*, *limit* of each at most."""
        if self._stopping:
            return ()
        found = []
        for offer in self._idle if offers is None else offers:
            for one in islice(self._idle.get(offer, {}).values(), limit):
                found.append(IdleWorker(one.bot, one.offer, one.free_slots, one.name))
        return found

    @property
    def stopping(self) -> bool:
        """Whether polls are no longer held, and no work is given."""
        return self._stopping

    def stop(self) -> None:
        """Answer all held polls, and hold none from now on."""
        self._stopping = True
        for session in self._by_bot.values():
            session.wake()

    def _changed(self, session: Session) -> None:
        self._be_idle(session, under=session.offer if session.is_idle else None)
        if session.polling:
            if self._quiet.pop(session.bot, None) or self._awaited.pop(session.bot, None):
                session.seen_at = self._clock.monotonic()
        elif session.bot not in self._quiet and session.bot not in self._awaited:
            session.seen_at = self._clock.monotonic()
            self._quiet[session.bot] = session

    def _be_idle(self, session: Session, *, under: Offer | None) -> None:
        before = self._idle_under.get(session.bot)
        if before == under:
            return
        if before is not None:
            del self._idle_under[session.bot]
            del self._idle[before][session.bot]
            if not self._idle[before]:
                del self._idle[before]
        if under is not None:
            self._idle_under[session.bot] = under
            self._idle[under][session.bot] = session


def _ignore(session: Session) -> None:
    pass
