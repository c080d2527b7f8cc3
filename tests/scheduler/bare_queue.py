"""The queue in the tables, without the scheduler round it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from gridwright.digest import DigestFunction
from gridwright.errors import GridwrightError
from gridwright_scheduler.database.admissions import Admissions, Admitted, Request
from gridwright_scheduler.database.assignments import Assigned, Bounds, assign
from gridwright_scheduler.database.cancellations import Cancelled, cancel
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.platforms import waiting_platforms
from gridwright_scheduler.database.queue_room import QueueRoom
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled, Settlement, settle_all
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import ActionId, ActionKey, BotKey, OperationName, ReplicaId, SessionName
from gridwright_scheduler.queue.platform import Offer, Requirements
from gridwright_scheduler.queue.settling import Outcome

LINUX = Requirements("main", (("OSFamily", "linux"),), ours_only=False)
MAC = Requirements("main", (("OSFamily", "mac"),), ours_only=False)


def request(
    name: str,
    *,
    build: str = "",
    priority: int = 0,
    needs: Requirements = LINUX,
    document: str = "",
    arrived_at: float = 1000.0,
) -> Request:
    """Return an Execute call of *build* whose operation and action are called *name*."""
    action = (document or name).encode()
    return Request(
        operation=OperationName(f"main/{name}"),
        action_id=ActionId(name),
        key=ActionKey("main", DigestFunction.SHA256.digest(action)),
        action=action,
        do_not_cache=False,
        requirements=needs,
        priority=priority,
        timeout_seconds=None,
        arrived_at=arrived_at,
        invocation=build,
    )


def idle(bot_id: str, slots: int = 1, *needs: Requirements, session: str = "") -> IdleWorker:
    """Return a bot that can do what has one of *needs*; none: LINUX."""
    properties = frozenset((name, str(value)) for one in needs or (LINUX,) for name, value in one.properties)
    return IdleWorker(BotKey("main", bot_id), Offer("main", properties, ours=True), slots, SessionName(session))


@dataclass
class BareQueue:
    """What one replica does to the tables, a transaction each."""

    database: Database
    max_queued: int = 100_000
    replica: ReplicaId | None = None
    now: float = 1000.0
    #: Whether an action may wait for another bot.
    avoiding: bool = True
    avoid_seconds: float = 0.0
    admissions: Admissions = field(init=False)

    def __post_init__(self) -> None:
        self.admissions = Admissions(QueueRoom(self.max_queued))

    async def admit(self, *requests: Request) -> Sequence[Admitted | GridwrightError]:
        """Take in *requests*, and remember that."""
        admitted = await self.database.write(lambda connection: self.admissions.admit(connection, requests))
        for one, answer in zip(requests, admitted, strict=True):
            if isinstance(answer, Admitted):
                self.admissions.committed(one)
        return admitted

    async def build(self, build: str, number: int, *, needs: Requirements = LINUX, priority: int = 0) -> None:
        """Take in *number* actions of *build* at once; the action called ``large.7`` is the eighth of ``large``."""
        names = [f"{build}.{which}" for which in range(number)]
        await self.admit(*(request(name, build=build, needs=needs, priority=priority) for name in names))

    def assign(self, connection: Connection, *workers: IdleWorker) -> Assigned:
        """Give to *workers* what they can do."""
        return assign(
            connection,
            workers=workers,
            wanted=waiting_platforms(connection),
            bounds=Bounds(600.0, 3600.0),
            avoiding=self.avoiding,
            now=self.now,
            replica=self.replica,
        )

    async def give(self, *workers: IdleWorker) -> Sequence[Leased]:
        """Give to *workers* what they can do; return the leases in the order in which the queue was."""
        given = await self.database.write(lambda connection: self.assign(connection, *workers))
        return given.leased

    async def run(self, number: int, *needs: Requirements) -> list[str]:
        """Give *number* actions to a bot with one slot, one after the other; return their names."""
        given: list[str] = []
        for _ in range(number):
            given += [leased.action_id for leased in await self.give(idle("bot", 1, *needs))]
        return given

    async def settle(self, leased: Leased, outcome: Outcome, *, bot: BotKey | None = None) -> Settled | None:
        """Say how the lease ended."""
        settlement = Settlement(leased.lease_id, outcome, bot)
        [settled] = await self.database.write(lambda connection: self.settle_in(connection, [settlement]))
        return settled

    def settle_in(self, connection: Connection, settlements: Sequence[Settlement]) -> Sequence[Settled | None]:
        """Carry out *settlements*."""
        return settle_all(
            connection,
            settlements,
            max_attempts=5,
            completing_seconds=120.0,
            avoid_seconds=self.avoid_seconds,
            owner=self.replica or ReplicaId("replica"),
            now=self.now,
        )

    async def cancel(self, names: Collection[str]) -> Sequence[Cancelled | GridwrightError]:
        """Cancel the operations of the actions *names*."""
        operations = [OperationName(f"main/{name}") for name in names]
        return await self.database.write(lambda connection: cancel(connection, operations, now=self.now))
