"""The shell round the heart: what the rest of the scheduler asks of the queue, and who hears of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import GridwrightError, OperationNotFound
from gridwright_scheduler.board import Board
from gridwright_scheduler.completing import Completing
from gridwright_scheduler.database.admissions import Admissions, Admitted, Request
from gridwright_scheduler.database.cancellations import Cancelled, cancel
from gridwright_scheduler.database.queue_room import QueueRoom
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled, Settlement, settle_all
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turn_locks import Touched
from gridwright_scheduler.database.turns import Commands, Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import BotKey, LeaseId, OperationName
from gridwright_scheduler.queue.settling import Announce, Outcome, Retry
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

R = TypeVar("R")
#: Statements that run in a turn, on their own behalf.
Errand = Callable[[Connection], R]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What an operator can say about the queue."""

    max_queued: int
    max_attempts: int
    #: How long a COMPLETING action has before it is looked after again.
    completing_seconds: float = 120.0
    #: How long another bot than those that failed an action is waited for.
    avoid_seconds: float = 30.0


class ActionQueue:
    """Takes actions in, settles and cancels them.

    Each change is durable before anyone hears of it, and whoever must hear of it does,
    also when the caller that asked for the change has gone away meanwhile.
    """

    def __init__(
        self,
        turns: Turns,
        dispatcher: Dispatcher,
        sessions: Sessions,
        board: Board,
        policy: QueuePolicy,
        clock: Clock,
        metrics: QueueMetrics,
    ) -> None:
        self._turns = turns
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._board = board
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._room = QueueRoom(policy.max_queued)
        self._admissions = Admissions(self._room)
        #: Actions that became COMPLETING, for whoever completes them.
        self.completing = Completing()
        self._errands = Commands[Errand[object], object](turns, _run_errands)
        self._admit = Commands[Request, Admitted](
            turns, self._admissions.admit, taken=self._expect, committed=self._admitted, touched=_joinable_by
        )
        self._settle = Commands[Settlement, Settled | None](
            turns,
            self._apply_settlements,
            committed=self._settled,
            topics=_topics_of_settled,
            touched=lambda settlements: Touched(leases=[one.lease_id for one in settlements]),
        )
        self._cancel = Commands[OperationName, Cancelled](
            turns,
            self._apply_cancellations,
            committed=self._cancelled,
            topics=_topics_of_cancelled,
            touched=lambda names: Touched(operations=names),
        )
        dispatcher.given = self._room.went
        dispatcher.orphaned = self._orphaned
        self._avoid()  # an earlier process may have left some

    async def admit(self, request: Request) -> Admitted:
        """Take in an Execute call; whoever watches its operation sees it.

        Raises:
            ResourceExhausted: the queue is full.
            Unavailable: the database is.
        """
        return await self._admit(request)

    def settle(
        self, lease_id: LeaseId, outcome: Outcome, *, bot: BotKey | None = None
    ) -> asyncio.Future[Settled | None]:
        """Say how a lease ended; the result is None if it was not the current one, and nothing changed.

        *bot* is who says so, and must be the one that has the lease; without it the scheduler itself says so.
        The future fails with Unavailable if the database does. Await it under ``asyncio.shield``.
        """
        return self._settle.send(Settlement(lease_id, outcome, bot))

    async def cancel(self, operation: OperationName) -> None:
        """Cancel *operation*, and its action if nobody else waits for it.

        Raises:
            OperationNotFound: there is none.
            Unavailable: the database is.
        """
        await self._cancel(operation)

    async def cancel_all(self, operations: Iterable[OperationName]) -> None:
        """Cancel *operations* together; those that are forgotten meanwhile need no cancelling.

        Raises:
            Unavailable: the database is.
        """
        for cancelling in [self._cancel.send(operation) for operation in operations]:
            with suppress(OperationNotFound):
                await asyncio.shield(cancelling)

    async def do(self, errand: Errand[R]) -> R:
        """Run *errand* in a turn, and return what it returns.

        Raises:
            Unavailable: the database is.
        """
        return await self._errands(errand)  # type: ignore[return-value]  # the queue of errands knows only object

    def _expect(self, request: Request) -> None:
        self._dispatcher.hint(request.requirements)

    def _admitted(self, request: Request, admitted: Admitted) -> None:
        if not admitted.joined:
            self._admissions.committed(request)
        self._metrics.admitted(joined=admitted.joined)
        self._board.bind(request.operation, admitted.snapshot)

    def _apply_settlements(self, connection: Connection, settlements: Sequence[Settlement]) -> Sequence[Settled | None]:
        return settle_all(
            connection,
            settlements,
            max_attempts=self._policy.max_attempts,
            completing_seconds=self._policy.completing_seconds,
            avoid_seconds=self._policy.avoid_seconds,
            owner=self._turns.replica.id,
            now=self._clock.now(),
        )

    def _settled(self, settlement: Settlement, settled: Settled | None) -> None:
        if settled is None:
            return
        self._take(settled.leased.bot, settlement.lease_id)
        if not isinstance(settlement.outcome, Announce):
            self._metrics.reported(run_seconds=self._clock.now() - settled.leased.leased_at)
        match settled.snapshot.state:
            case ActionState.COMPLETING:  # to clients it is EXECUTING as before
                self.completing.add(settled)
            case ActionState.COMPLETED:
                self._board.publish(settled.snapshot)
                self._metrics.completed(attempts=settled.leased.fence)
            case ActionState.QUEUED:
                assert settled.requirements is not None
                self._room.came(1)
                self._dispatcher.hint(settled.requirements)
                self._avoid()
                self._dispatcher.look()
                self._board.publish(settled.snapshot)
                self._metrics.requeued()
                reason = settlement.outcome.reason if isinstance(settlement.outcome, Retry) else ""
                log.warning("action_requeued", action=str(settled.leased.key.digest), reason=reason)

    def _apply_cancellations(
        self, connection: Connection, operations: Sequence[OperationName]
    ) -> Sequence[Cancelled | GridwrightError]:
        return cancel(connection, operations, now=self._clock.now())

    def _cancelled(self, operation: OperationName, cancelled: Cancelled) -> None:
        if cancelled.changed:
            self._board.cancel(operation)
        if cancelled.revoked is not None:
            self._take(*cancelled.revoked)

    def _take(self, bot: BotKey, lease_id: LeaseId) -> None:
        session = self._sessions.find(bot)
        if session is not None:
            session.take(lease_id)
            self._dispatcher.look()

    def _avoid(self) -> None:
        self._dispatcher.avoid(until=self._clock.now() + self._policy.avoid_seconds)

    def _orphaned(self, leased: Leased) -> None:
        why = f"worker {leased.bot.bot_id} left before it began"
        self.settle(leased.lease_id, Retry(why, counted=False, begun=False))


def _joinable_by(requests: Sequence[Request]) -> Touched:
    shared = [request for request in requests if not request.do_not_cache]
    since = min((request.arrived_at for request in shared), default=math.inf)
    return Touched(hashes=[request.key.digest.hash for request in shared], since=since)


def _topics_of_settled(results: Sequence[Settled | GridwrightError | None]) -> Collection[Topic]:
    topics = set()
    for one in results:
        # To clients a COMPLETING action is EXECUTING as before.
        if isinstance(one, Settled) and one.snapshot.state is not ActionState.COMPLETING:
            topics.add(Topic.ACTIONS)
        if isinstance(one, Settled) and one.taken:
            topics.add(Topic.LEASES)
    return topics


def _topics_of_cancelled(results: Sequence[Cancelled | GridwrightError]) -> Collection[Topic]:
    topics = set()
    for one in results:
        if isinstance(one, Cancelled) and one.changed:
            topics.add(Topic.ACTIONS)
        if isinstance(one, Cancelled) and one.revoked is not None:
            topics.add(Topic.LEASES)
    return topics


def _run_errands(connection: Connection, errands: Sequence[Errand[object]]) -> Sequence[object | GridwrightError]:
    return [errand(connection) for errand in errands]
