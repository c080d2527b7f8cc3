"""Looks after what waits in the queue, for all schedulers that share it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from gridwright.clock import Clock
from gridwright.errors import FailedPrecondition
from gridwright.wire.statuses import status_message
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.board import Board
from gridwright_scheduler.database import upkeep
from gridwright_scheduler.database.engine import Database, reading
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.patience import Patience
from gridwright_scheduler.queue.platform import why_nobody_serves
from gridwright_scheduler.queue.responses import refused

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class QueueKeeper:
    """Refuses what nobody can do, and counts the rest; the scheduler that leads does."""

    queue: ActionQueue
    database: Database
    board: Board
    patience: Patience
    replica: Replica
    metrics: QueueMetrics
    clock: Clock

    async def count(self) -> None:
        """Count what is queued, unless another scheduler does: two that do would make it twice as long."""
        if self.replica.leads:
            self.metrics.counted(await reading(self.database, upkeep.waiting))
        else:
            self.metrics.not_counted()

    async def refuse_hopeless(self) -> None:
        """Refuse what no bot has been able to do for too long (checklist EXE-27, PLAT-03)."""
        needs = await reading(self.database, upkeep.queued_platforms)
        offers = await reading(self.database, upkeep.offers) if needs else set()
        for platform in self.patience.exhausted(needs, offers, self.clock.monotonic()):
            why = why_nobody_serves(needs[platform], offers)
            response = refused(status_message(FailedPrecondition(f"nobody can run this action: {why}")))
            log.warning("actions_refused", why=why)
            refusal = upkeep.Refusal(platform, response, self.clock.now())
            while snapshots := await self.queue.do(refusal):
                for snapshot in snapshots:
                    self.board.publish(snapshot)

    async def refuse_unknown(self, known: Collection[str]) -> None:
        """End what an earlier process took in for instances that are not among *known*, those of the settings now.

        Not while another scheduler lives, whose settings may be newer: what nobody can do is refused later anyway.
        """
        if not self.replica.alone:
            return
        error = FailedPrecondition("this grid no longer has the instance of this action; execute it in another")
        response = refused(status_message(error))
        gone = await self.queue.do(
            lambda connection: upkeep.refuse_unknown(connection, known=known, response=response, now=self.clock.now())
        )
        if gone:
            log.warning("actions_of_unknown_instances_refused", actions=gone, instances=sorted(known))
