"""Brings together what is queued and who waits for work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from itertools import islice

import structlog
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import GridwrightError
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.assignments import MAX_LEASES, Assigned, Bounds, assign
from gridwright_scheduler.database.platforms import waiting_platforms
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turns import Batch, Step, Turns
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Offer, Requirements, platform_id, serves
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

#: Platforms that one turn looks at; the others have their turn next.
_MAX_PLATFORMS_PER_TURN = 100
#: Platforms that are remembered; if there are more, the table is asked.
_MAX_HINTS = 10_000

Needs = Mapping[PlatformId, Requirements]


class Dispatcher(Step):
    """Leases queued actions to waiting bots, at the end of each turn.

    It remembers for which platforms something may be queued. That is a hint: the queue
    itself is in the database, and is looked at when another replica says that it has
    queued something, and now and then without that.

    Args:
        fenced: whether other replicas may use the tables, so that bots may have gone over to them.
    """

    def __init__(
        self,
        turns: Turns,
        sessions: Sessions,
        board: Board,
        bounds: Bounds,
        clock: Clock,
        metrics: QueueMetrics,
        *,
        fenced: bool = False,
    ) -> None:
        self._turns = turns
        self._sessions = sessions
        self._board = board
        self._bounds = bounds
        self._clock = clock
        self._metrics = metrics
        self._fenced = fenced
        self._hints: dict[PlatformId, Requirements] = {}
        #: Hints since the last turn began: of what may be queued that nobody else knows of.
        self._fresh: set[PlatformId] = set()
        #: Whether there may be more than the hints tell, or less.
        self._suspicious = False
        #: Until when there may be actions that avoid a bot.
        self._avoiding_until = 0.0
        #: Hears how many actions have left the queue.
        self.given: Callable[[int], None] = _ignore
        #: Hears of leases whose bot has gone in the meantime.
        self.orphaned: Callable[[Leased], None] = _ignore

    def hint(self, requirements: Requirements) -> None:
        """Something with *requirements* is queued, or is about to be in the turn that begins."""
        platform = platform_id(requirements)
        if len(self._hints) >= _MAX_HINTS:
            self._hints.clear()
            self._suspicious = True
        self._hints.setdefault(platform, requirements)
        self._fresh.add(platform)

    def avoid(self, *, until: float) -> None:
        """Some actions wait for another bot than those that failed them, till *until* at most."""
        self._avoiding_until = max(self._avoiding_until, until)

    def suspect(self) -> None:
        """Something may be queued that no hint tells of: ask the table, as soon as there is a bot to give it to."""
        self._suspicious = True
        self.look()

    def look(self) -> None:
        """Have a turn if a waiting bot could be given something, or another replica's bot could."""
        offers = self._sessions.idle_offers()
        if (self._suspicious and offers) or served(self._hints, offers, limit=1) or self._has_news():
            self._turns.want()

    def take(self) -> Batch | None:
        offers = tuple(self._sessions.idle_offers())
        suspicious = self._suspicious and bool(offers)
        wanted = served(self._hints, offers, limit=_MAX_PLATFORMS_PER_TURN)
        if len(wanted) == _MAX_PLATFORMS_PER_TURN:
            for platform, requirements in wanted.items():  # to the end of the line
                del self._hints[platform]
                self._hints[platform] = requirements
        if not (wanted or suspicious or self._has_news()):
            self._fresh.clear()
            return None
        useful = [offer for offer in offers if suspicious or any(serves(offer, needs) for needs in wanted.values())]
        workers = self._sessions.idle(useful, limit=MAX_LEASES)
        batch = _Assignment(self, workers, wanted, self._fresh, suspicious=suspicious)
        self._fresh = set()
        self._suspicious = self._suspicious and not suspicious
        return batch

    def assign(self, connection: Connection, workers: Sequence[IdleWorker], wanted: Needs) -> Assigned:
        """Give actions of the platforms *wanted* to *workers*."""
        now = self._clock.now()
        return assign(
            connection,
            workers=workers,
            wanted=wanted,
            bounds=self._bounds,
            avoiding=now < self._avoiding_until,
            now=now,
            replica=self._turns.replica.id if self._fenced else None,
        )

    def announce(self, assigned: Assigned, waiting: Needs | None) -> None:
        """Tell bots and clients of leases that are durable now; *waiting* is what a look at the table found before."""
        if waiting is not None:
            self._hints = {**waiting, **{one: needs for one, needs in self._hints.items() if one in self._fresh}}
        for platform in assigned.drained:
            if platform not in self._fresh:
                self._hints.pop(platform, None)
        for worker in assigned.lost:
            session = self._sessions.find(worker.bot)
            if session is not None and session.name == worker.session:
                self._sessions.end(session)
        self.given(len(assigned.leased))
        for leased in assigned.leased:
            self._give(leased)
        # Another replica may have queued again what a bot of ours is not to have, and what is behind it was not read.
        hidden = assigned.avoiding_until > max(self._avoiding_until, self._clock.now())
        self.avoid(until=assigned.avoiding_until)
        if assigned.leased or assigned.lost or hidden:
            self.look()

    def failed(self, *, suspicious: bool) -> None:
        """Nobody was told; the next turn, or a look at the table, tries again."""
        self._suspicious = self._suspicious or suspicious

    def _give(self, leased: Leased) -> None:
        session = self._sessions.find(leased.bot)
        if session is None:
            self.orphaned(leased)
            return
        self._metrics.assigned(
            first=leased.fence == 1,
            waited_seconds=leased.leased_at - leased.queued_at,
            worker_waited_seconds=self._clock.monotonic() - session.seen_at,
        )
        session.give(leased)
        self._board.publish(leased.snapshot())

    def _has_news(self) -> bool:
        """Whether others could do what was queued here."""
        return bool(self._fresh) and not self._turns.replica.alone


def served(needs: Needs, offers: Collection[Offer], *, limit: int) -> dict[PlatformId, Requirements]:
    """Return the first *limit* of *needs* that bots with *offers* could serve."""
    found = (
        (platform, requirements)
        for platform, requirements in needs.items()
        if any(serves(offer, requirements) for offer in offers)
    )
    return dict(islice(found, limit)) if offers else {}


class _Assignment(Batch):
    """What one turn gives to bots.

    Args:
        wanted: the platforms that hints tell of.
        fresh: those that something was queued for in this turn, or since the last one.
        suspicious: whether the table is asked which platforms there are.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        workers: Sequence[IdleWorker],
        wanted: Needs,
        fresh: set[PlatformId],
        *,
        suspicious: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._workers = workers
        self._wanted = wanted
        self._fresh = fresh
        self._suspicious = suspicious
        self._waiting: Needs | None = None
        self._assigned = Assigned()

    def apply(self, connection: Connection) -> None:
        wanted = self._wanted
        if self._suspicious:
            self._waiting = waiting_platforms(connection)
            wanted = served(self._waiting, _offers(self._workers), limit=_MAX_PLATFORMS_PER_TURN)
        self._assigned = self._dispatcher.assign(connection, self._workers, wanted) if wanted else Assigned()

    def topics(self, so_far: Set[Topic]) -> Set[Topic]:
        left = self._fresh.difference(self._assigned.drained)
        if self._waiting is not None:
            left &= self._waiting.keys()
        topics = {Topic.QUEUE} if left else set()
        if self._assigned.leased:
            topics.add(Topic.ACTIONS)
        return so_far | topics

    def committed(self) -> None:
        self._dispatcher.announce(self._assigned, self._waiting)

    def failed(self, error: GridwrightError) -> None:
        log.warning("assignment_failed", error=str(error))
        self._dispatcher.failed(suspicious=self._suspicious)

    def parts(self) -> Sequence[Batch]:
        return [self]


def _offers(workers: Iterable[IdleWorker]) -> set[Offer]:
    return {worker.offer for worker in workers}


def _ignore(what: object) -> None:
    pass
