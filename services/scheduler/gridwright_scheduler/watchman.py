"""Looks after what bots, and those who complete their actions, do not bring to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.rpc import code_pb2
from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import upkeep
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.names import LeaseId
from gridwright_scheduler.queue.responses import TIMEOUT_MESSAGE, failed
from gridwright_scheduler.queue.settling import Finish, Outcome, Retry


@dataclass(frozen=True, slots=True)
class Watchman:
    """Looks after leases that last too long, and actions that nobody completes.

    Every scheduler has one: what several of them find at once is settled by one, and changes
    nothing for the others.
    """

    queue: ActionQueue
    clock: Clock
    replica: Replica
    #: How long an action may take to be completed.
    completing_seconds: float
    #: What was to be completed here at the last look, and nobody was at it.
    forgotten: set[LeaseId] = field(default_factory=set)
    #: Leases of bots that nobody had at the last look.
    deserted: set[LeaseId] = field(default_factory=set)

    async def give_up_overdue(self) -> None:
        """Take from their bots the actions that take too long, and complete those that nobody has in time."""
        now = self.clock.now()

        def look(connection: Connection) -> tuple[Sequence[upkeep.Overdue], Sequence[upkeep.Claimed]]:
            return upkeep.overdue(connection, now=now), self._claim(connection, now=now, orphans=False)

        late, claimed = await self.queue.do(look)
        self._complete(claimed)
        await self._settle({one.leased.lease_id: _too_late(one) for one in late})

    async def complete_for_the_dead(self) -> None:
        """Complete what schedulers that are no more were to complete, be it this one's predecessor."""
        now = self.clock.now()
        self._complete(await self.queue.do(lambda connection: self._claim(connection, now=now, orphans=True)))

    async def give_back_deserted(self) -> None:
        """Give to others what was given to bots that nobody has: a COMMIT was not answered as they left.

        At one look a lease may be on its way out of the table; not at two.
        """
        found = set(await self.queue.do(upkeep.deserted))
        outcome = Retry("its worker left", counted=False)
        await self._settle(dict.fromkeys(found & self.deserted, outcome))
        self.deserted.clear()
        self.deserted.update(found)

    async def remember_completing(self) -> None:
        """Complete what is this scheduler's to complete and never came to its ears: a COMMIT was not answered.

        At one look an action may just be on its way here; not at two.
        """
        mine = await self.queue.do(lambda connection: upkeep.completed_by(connection, self.replica.id))
        unknown = {lease_id for lease_id in mine if lease_id not in self.queue.completing}
        if hurried := unknown & self.forgotten:
            await self.queue.do(lambda connection: upkeep.hurry(connection, hurried))
        self.forgotten.clear()
        self.forgotten.update(unknown)

    def _claim(self, connection: Connection, *, now: float, orphans: bool) -> Sequence[upkeep.Claimed]:
        return upkeep.claim_completing(
            connection, self.replica.id, orphans=orphans, now=now, completing_seconds=self.completing_seconds
        )

    def _complete(self, claimed: Sequence[upkeep.Claimed]) -> None:
        for one in claimed:
            self.queue.completing.add(Settled(one.leased, one.leased.snapshot(), one.response, None))

    async def _settle(self, outcomes: Mapping[LeaseId, Outcome]) -> None:
        settling = [self.queue.settle(lease_id, outcome) for lease_id, outcome in outcomes.items()]
        await asyncio.gather(*(asyncio.shield(one) for one in settling))


def _too_late(one: upkeep.Overdue) -> Outcome:
    if one.timeout_seconds is None:
        # The action left its timeout to the server, and this is the server's.
        return Finish(failed(code_pb2.DEADLINE_EXCEEDED, TIMEOUT_MESSAGE), succeeded=False, cacheable=False)
    return Retry(
        f"worker {one.leased.bot.bot_id} did not report the end of the action, whose timeout is "
        f"{one.timeout_seconds:g} s"
    )
