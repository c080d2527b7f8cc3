"""Brings together what is queued and who waits for work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

import structlog
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import GridwrightError
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.assignments import Assigned, Bounds, assign
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.turns import Batch, Step, Turns
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Requirements, platform_id, serves
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

#: Platforms that one turn looks at; the others have their turn next.
_MAX_PLATFORMS_PER_TURN = 100


class Dispatcher(Step):
    """Leases queued actions to waiting bots, at the end of each turn.

    It remembers for which platforms something may be queued. That is a hint: the queue
    itself is in the database, and a slow look at it puts right what a hint missed.
    """

    def __init__(self, turns: Turns, sessions: Sessions, board: Board, bounds: Bounds, clock: Clock) -> None:
        self._turns = turns
        self._sessions = sessions
        self._board = board
        self._bounds = bounds
        self._clock = clock
        self._hints: dict[PlatformId, Requirements] = {}
        #: Hints that the last look at the queue did not find true, and nobody has given since.
        self._doubtful: set[PlatformId] = set()
        #: Until when there may be actions that avoid a bot.
        self._avoiding_until = 0.0
        #: Hears of leases whose bot has gone in the meantime.
        self.orphaned: Callable[[Leased], None] = _ignore

    def hint(self, requirements: Requirements) -> None:
        """Something with *requirements* is queued, or is about to be in the turn that begins."""
        platform = platform_id(requirements)
        self._hints.setdefault(platform, requirements)
        self._doubtful.discard(platform)

    def avoid(self, *, until: float) -> None:
        """Some actions wait for another bot than those that failed them, till *until* at most."""
        self._avoiding_until = max(self._avoiding_until, until)

    def compare(self, waiting: Mapping[PlatformId, Requirements]) -> None:
        """Let hints be what is *waiting* by a look at the whole queue.

        What is not may have been queued since the look: it is dropped if the next one does not find it either.
        """
        for platform in self._doubtful - waiting.keys():
            self._hints.pop(platform, None)
        for platform, requirements in waiting.items():
            self._hints.setdefault(platform, requirements)
        self._doubtful = self._hints.keys() - waiting.keys()

    def look(self) -> None:
        """Have a turn if a waiting bot could be given something."""
        if self._hints and self._wanted(self._sessions.idle()):
            self._turns.want()

    def take(self) -> Batch | None:
        workers = self._sessions.idle() if self._hints else ()
        wanted = self._wanted(workers)
        if not wanted:
            return None
        now = self._clock.now()
        apply = partial(
            assign,
            workers=workers,
            wanted=wanted,
            bounds=self._bounds,
            avoiding=now < self._avoiding_until,
            now=now,
        )
        return _Assignment(self, apply)

    def announce(self, assigned: Assigned) -> None:
        """Tell bots and clients of leases that are durable now."""
        for platform in assigned.drained:
            self._hints.pop(platform, None)
        for leased in assigned.leased:
            session = self._sessions.find(leased.bot)
            if session is None:
                self.orphaned(leased)
                continue
            session.give(leased)
            self._board.publish(leased.snapshot())

    def _wanted(self, workers: Iterable[IdleWorker]) -> dict[PlatformId, Requirements]:
        offers = {worker.offer for worker in workers}
        found = dict(
            islice(
                (
                    (platform, requirements)
                    for platform, requirements in self._hints.items()
                    if any(serves(offer, requirements) for offer in offers)
                ),
                _MAX_PLATFORMS_PER_TURN,
            )
        )
        if len(found) == _MAX_PLATFORMS_PER_TURN:
            for platform, requirements in found.items():  # to the end of the line
                del self._hints[platform]
                self._hints[platform] = requirements
        return found


class _Assignment(Batch):
    def __init__(self, dispatcher: Dispatcher, apply: Callable[[Connection], Assigned]) -> None:
        self._dispatcher = dispatcher
        self._apply = apply
        self._assigned = Assigned((), ())

    def apply(self, connection: Connection) -> None:
        self._assigned = self._apply(connection)

    def committed(self) -> None:
        self._dispatcher.announce(self._assigned)

    def failed(self, error: GridwrightError) -> None:
        # Nobody was told; the next turn, or the slow look at the queue, tries again.
        log.warning("assignment_failed", error=str(error))

    def parts(self) -> Sequence[Batch]:
        return [self]


def _ignore(leased: Leased) -> None:
    pass
