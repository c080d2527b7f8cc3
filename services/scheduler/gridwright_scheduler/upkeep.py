"""What the scheduler looks after all the time, so that nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import structlog
from google.rpc import code_pb2
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import FailedPrecondition, Unavailable
from gridwright.wire.statuses import status_message
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.attendance import Attendance
from gridwright_scheduler.board import Board
from gridwright_scheduler.database import bots, upkeep
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import LeaseId, PlatformId
from gridwright_scheduler.queue.patience import Patience
from gridwright_scheduler.queue.platform import Requirements, why_nobody_serves
from gridwright_scheduler.queue.responses import TIMEOUT_MESSAGE, failed, refused
from gridwright_scheduler.queue.settling import Finish, Outcome, Retry
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

_ROUND_SECONDS = 1.0
#: Rounds from one slow look at the database to the next.
_SLOW_LOOK_ROUNDS = 10
#: Rounds between looks for what is old.
_RETENTION_ROUNDS = 5
#: Bounds how long one look for what is old keeps the other duties waiting.
_RETENTION_CHUNKS = 20
_ORPHANED = "its worker left"


@dataclass(frozen=True, slots=True)
class Watchman:
    """Looks after bots that fell silent, and leases that last too long."""

    queue: ActionQueue
    sessions: Sessions
    attendance: Attendance
    clock: Clock
    #: Leases that no session held at the last look.
    suspects: set[LeaseId] = field(default_factory=set)

    async def end_silent_sessions(self) -> None:
        """Give what silent bots hold to others (checklist BOT-19)."""
        for session in self.sessions.silent():
            await self.attendance.end(session, f"worker {session.bot.bot_id} stopped answering", counted=True)

    async def give_up_overdue(self) -> None:
        """Take from their bots the actions that take too long, and bring back those that nobody completes."""
        late = await self.queue.do(lambda connection: upkeep.overdue(connection, now=self.clock.now()))
        for one in late:
            if one.state is ActionState.COMPLETING:
                self.queue.completing.add(Settled(one.leased, one.leased.snapshot(), one.response, None))
            else:
                await asyncio.shield(self.queue.settle(one.leased.lease_id, _too_late(one)))

    async def give_back_orphans(self) -> None:
        """Give to others what no bot holds that should, for example since the database failed as its bot left.

        At one look a lease may be on its way into a session, or out of the table; not at two.
        """
        current = await self.queue.do(bots.current_leases)
        orphans = set(current).difference(*(session.leases for session in self.sessions))
        settling = [self.queue.settle(one, Retry(_ORPHANED, counted=False)) for one in orphans & self.suspects]
        self.suspects.clear()
        self.suspects.update(orphans)
        await asyncio.gather(*(asyncio.shield(one) for one in settling))


@dataclass(frozen=True, slots=True)
class QueueKeeper:
    """Looks after what is queued, and what has long been done."""

    queue: ActionQueue
    sessions: Sessions
    dispatcher: Dispatcher
    board: Board
    operations: Operations
    patience: Patience
    clock: Clock

    async def look_at_queue(self, metrics: QueueMetrics) -> None:
        """Find work that a hint missed, and refuse what nobody can do."""
        waiting = await self.queue.do(upkeep.waiting)
        needs = {platform: one.requirements for platform, one in waiting.items()}
        self.dispatcher.compare(needs)
        self.dispatcher.look()
        await self._refuse_hopeless(needs)
        metrics.standing(
            queued=sum(one.queued for one in waiting.values()),
            workers=len(self.sessions),
            leases=sum(len(session.leases) for session in self.sessions),
        )

    async def look_at_watched(self) -> None:
        """Find changes of watched actions that no announcement told of."""
        watched = list(self.board.watched())
        for start in range(0, len(watched), upkeep.CHUNK):
            for snapshot in await self.operations.snapshots(watched[start : start + upkeep.CHUNK]):
                # Only an end is certain to be news: any other state may have changed again since it was read.
                if snapshot.state is ActionState.COMPLETED:
                    self.board.publish(snapshot)

    async def refuse_unknown(self, known: Collection[str]) -> None:
        """End what an earlier process took in for instances that are not among *known*, those of the settings now."""
        error = FailedPrecondition("this grid no longer has the instance of this action; execute it in another")
        response = refused(status_message(error))
        gone = await self.queue.do(
            lambda connection: upkeep.refuse_unknown(connection, known=known, response=response, now=self.clock.now())
        )
        if gone:
            log.warning("actions_of_unknown_instances_refused", actions=gone, instances=sorted(known))

    async def forget_old(self, *, retention_seconds: float) -> None:
        """Delete a bounded number of actions that finished long ago."""
        before = self.clock.now() - retention_seconds
        some = False
        for _ in range(_RETENTION_CHUNKS):  # each in a turn that it shares with whoever has something to write
            gone = await self.queue.do(lambda connection: upkeep.forget_finished(connection, before=before))
            some = some or gone > 0
            if gone < upkeep.CHUNK:
                break
        if some:
            await self.queue.do(self._forget_platforms)

    def _forget_platforms(self, connection: Connection) -> None:
        # In the turn itself: the admissions of this turn come next, and must look into the table again.
        upkeep.forget_platforms(connection)
        self.queue.admissions.forget_platforms()

    async def _refuse_hopeless(self, needs: Mapping[PlatformId, Requirements]) -> None:
        offers = self.sessions.offers()
        now = self.clock.now()
        for platform in self.patience.exhausted(needs, offers, self.clock.monotonic()):
            why = why_nobody_serves(needs[platform], offers)
            response = refused(status_message(FailedPrecondition(f"nobody can run this action: {why}")))
            log.warning("actions_refused", why=why)
            refusal = upkeep.Refusal(platform, response, now)
            while snapshots := await self.queue.do(refusal):
                for snapshot in snapshots:
                    self.board.publish(snapshot)


class Upkeep:
    """Makes the rounds, once a second."""

    def __init__(
        self, watchman: Watchman, keeper: QueueKeeper, metrics: QueueMetrics, *, retention_seconds: float
    ) -> None:
        self._watchman = watchman
        self._keeper = keeper
        self._metrics = metrics
        self._retention_seconds = retention_seconds

    async def run(self) -> None:
        """Make rounds until cancelled."""
        number = 0
        while True:
            try:
                await self._round(number)
            except Unavailable as error:
                log.warning("upkeep_failed", error=str(error))
            number += 1
            await asyncio.sleep(_ROUND_SECONDS)

    async def _round(self, number: int) -> None:
        await self._watchman.end_silent_sessions()
        await self._watchman.give_up_overdue()
        await self._keeper.look_at_queue(self._metrics)
        if number % _SLOW_LOOK_ROUNDS == 0:
            await self._watchman.give_back_orphans()
            await self._keeper.look_at_watched()
        if number % _RETENTION_ROUNDS == 0:
            await self._keeper.forget_old(retention_seconds=self._retention_seconds)


def _too_late(one: upkeep.Overdue) -> Outcome:
    if one.timeout_seconds is None:
        # The action left its timeout to the server, and this is the server's.
        return Finish(failed(code_pb2.DEADLINE_EXCEEDED, TIMEOUT_MESSAGE), succeeded=False, cacheable=False)
    return Retry(
        f"worker {one.leased.bot.bot_id} did not report the end of the action, whose timeout is "
        f"{one.timeout_seconds:g} s"
    )
