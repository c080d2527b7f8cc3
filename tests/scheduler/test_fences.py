"""What keeps two schedulers, two bots, or two leases of one action out of each other's way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text, update

from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.admissions import Admitted
from gridwright_scheduler.database.assignments import Assigned
from gridwright_scheduler.database.cancellations import Cancelled, cancel
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.schema import bots
from gridwright_scheduler.database.settlements import Settlement
from gridwright_scheduler.queue.names import BotKey, LeaseId, OperationName, ReplicaId, fence_of, new_lease_id
from gridwright_scheduler.queue.settling import Announce, Finish, Outcome, Retry
from gridwright_scheduler.queue.states import ActionState
from tests.postgres import PostgresServer
from tests.scheduler.bare_queue import BareQueue, idle, request
from tests.scheduler.databases import Tables, database_in

#: Long enough for another transaction to come to the same rows.
HOLD = text("SELECT pg_sleep(0.3)")
DONE = Finish(b"response", succeeded=True, cacheable=True)
ME, OTHER = ReplicaId("me"), ReplicaId("other")


@pytest.fixture
async def queue(tmp_path: Path, one_replica: None) -> AsyncIterator[BareQueue]:
    async with open_database(database_in(tmp_path)) as database:
        yield BareQueue(database)


@pytest.fixture
def shared(postgres: PostgresServer) -> Iterator[DatabaseSettings]:
    """A database for several replicas."""
    name = postgres.new_database("template_of_tests")
    yield DatabaseSettings(url=postgres.url(name), pool_size=2)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def replicas(shared: DatabaseSettings) -> AsyncIterator[list[BareQueue]]:
    """Three replicas."""
    async with AsyncExitStack() as stack:
        yield [BareQueue(await stack.enter_async_context(open_database(shared))) for _ in range(3)]


def test_the_name_of_a_lease_says_which_of_its_action_it_is() -> None:
    assert fence_of(new_lease_id("", 3)) == 3
    assert fence_of(new_lease_id("a/b.c", 12)) == 12
    for strange in ("main/1", "main/x.", "main/x.-1", "main/x.1.", "main/x.²", "main/x.٣", f"main/x.{'9' * 40}"):
        assert fence_of(LeaseId(strange)) is None


@pytest.mark.parametrize("outcome", [DONE, Retry("lost"), Announce()])
async def test_an_old_fence_changes_nothing(queue: BareQueue, tables: Tables, outcome: Outcome) -> None:
    await queue.admit(request("a"))
    [old] = await queue.give(idle("one"))
    settled = await queue.settle(old, Retry("one was lost", counted=False))
    assert settled is not None
    [current] = await queue.give(idle("two"))
    assert (old.fence, current.fence) == (1, 2)
    before = tables.execute("SELECT * FROM actions")
    assert await queue.settle(old, outcome) is None
    assert await queue.settle(old, outcome, bot=BotKey("main", "one")) is None
    # Also if the rest of the name were right.
    forged = LeaseId(f"{current.lease_id.rpartition('.')[0]}.1")
    tables.execute(f"UPDATE actions SET lease_id = '{forged}'")
    assert await queue.settle(old, outcome) is None
    [settlement] = await queue.database.write(lambda c: queue.settle_in(c, [Settlement(forged, outcome)]))
    assert settlement is None
    tables.execute(f"UPDATE actions SET lease_id = '{current.lease_id}'")
    assert tables.execute("SELECT * FROM actions") == before
    assert await queue.settle(current, outcome, bot=BotKey("main", "two")) is not None


@pytest.mark.parametrize("bot", [BotKey("main", "two"), BotKey("other", "one"), BotKey("main", "")])
async def test_another_bot_with_the_right_lease_changes_nothing(queue: BareQueue, tables: Tables, bot: BotKey) -> None:
    await queue.admit(request("a"))
    [leased] = await queue.give(idle("one"))
    before = tables.execute("SELECT * FROM actions")
    assert await queue.settle(leased, DONE, bot=bot) is None
    assert tables.execute("SELECT * FROM actions") == before
    both = [Settlement(leased.lease_id, Retry("mine"), bot), Settlement(leased.lease_id, DONE, leased.bot)]
    [wrong, right] = await queue.database.write(lambda connection: queue.settle_in(connection, both))
    assert wrong is None
    assert right is not None
    assert right.snapshot.state is ActionState.COMPLETING


async def test_whatever_clients_can_see_makes_an_action_newer(queue: BareQueue, tables: Tables) -> None:
    [admitted] = await queue.admit(request("a"))
    assert isinstance(admitted, Admitted)
    seen = [admitted.snapshot.version]
    attempts: list[list[Outcome]] = [[Retry("lost")], [DONE, Announce()]]
    for outcomes in attempts:
        [leased] = await queue.give(idle("one"))
        seen.append(leased.snapshot().version)
        for outcome in outcomes:
            settled = await queue.settle(leased, outcome)
            assert settled is not None
            seen.append(settled.snapshot.version)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert tables.execute("SELECT version FROM actions") == [("5",)]


async def test_an_action_that_is_being_completed_has_an_owner(queue: BareQueue, tables: Tables) -> None:
    queue.replica = ME
    await queue.database.write(lambda connection: _begin(connection, "one", ME))
    await queue.admit(request("a"))
    [leased] = await queue.give(idle("one", session="one"))
    assert await queue.settle(leased, DONE) is not None
    assert tables.execute("SELECT owner FROM actions") == [("me",)]
    assert await queue.settle(leased, Announce()) is not None
    assert tables.execute("SELECT count(owner) FROM actions") == [("0",)]


async def test_a_bot_that_went_over_to_another_replica_is_given_nothing_here(queue: BareQueue) -> None:
    queue.replica = ME
    await queue.build("build", 10)

    def arrange(connection: Connection) -> None:
        for bot, replica in (("mine", ME), ("theirs", OTHER), ("renewed", ME)):
            _begin(connection, bot, replica)

    await queue.database.write(arrange)
    workers = [
        idle("mine", 2, session="mine"),
        idle("theirs", 2, session="theirs"),
        idle("renewed", 2, session="older"),
        idle("unknown", 2, session="unknown"),
    ]
    assigned = await queue.database.write(lambda connection: queue.assign(connection, *workers))
    assert {leased.bot.bot_id for leased in assigned.leased} == {"mine"}
    assert len(assigned.leased) == 2
    assert {worker.bot.bot_id for worker in assigned.lost} == {"theirs", "renewed", "unknown"}
    assert not assigned.drained
    # What those were to be given is there for others.
    assert len(await queue.give(idle("mine", 8, session="mine"))) == 8


async def test_of_a_bot_that_two_replicas_think_theirs_only_the_right_one_gives_it_something(
    replicas: list[BareQueue],
) -> None:
    one, two, _ = replicas
    one.replica, two.replica = ME, OTHER
    await one.build("build", 10)
    await one.database.write(lambda connection: _begin(connection, "bot", ME))
    worker = idle("bot", 2, session="bot")
    locked = asyncio.Event()

    def claim(connection: Connection) -> None:
        connection.execute(update(bots).values(replica=OTHER))
        locked.set()
        connection.execute(HOLD)

    claiming = asyncio.create_task(two.database.write(claim))
    await locked.wait()
    # It is not waited for: whoever claims may wait for a row that is locked here.
    assigned = await one.database.write(lambda connection: one.assign(connection, worker))
    assert not claiming.done()
    assert (assigned.leased, assigned.lost) == ([], [worker])
    await claiming
    assert (await one.database.write(lambda connection: one.assign(connection, worker))).lost == [worker]
    assert len(await two.give(worker)) == 2


async def test_replicas_that_assign_at_once_give_no_action_to_two_bots(
    replicas: list[BareQueue],
) -> None:
    await replicas[0].build("large", 600)
    await replicas[1].build("small", 100)

    async def work(which: int) -> list[str]:
        queue = replicas[which]
        given: list[str] = []
        while leased := await queue.give(*(idle(f"bot-{which}-{number}", 3) for number in range(4))):
            given += [one.action_id for one in leased]
            for one in leased[::5]:
                if one.fence < 3:
                    assert await queue.settle(one, Retry("lost", counted=False)) is not None
            for one in leased[1::5]:
                assert await queue.settle(one, DONE, bot=one.bot) is not None
        return given

    given = Counter(name for names in await asyncio.gather(*(work(which) for which in range(3))) for name in names)
    query = "SELECT id, fence FROM actions WHERE state IN (2, 3)"
    fences = await replicas[0].database.read(lambda connection: connection.execute(text(query)).all())
    assert len(fences) == 700
    assert given == {name: fence for name, fence in fences}


async def test_of_the_last_two_operations_that_are_cancelled_at_once_one_cancels_the_action(
    replicas: list[BareQueue],
) -> None:
    await replicas[0].admit(request("a"))
    await replicas[1].admit(request("b", document="a"))

    def end(connection: Connection, name: str) -> Cancelled:
        [cancelled] = cancel(connection, [OperationName(f"main/{name}")], now=1000.0)
        connection.execute(HOLD)
        assert isinstance(cancelled, Cancelled)
        return cancelled

    both = await asyncio.gather(
        replicas[0].database.write(lambda connection: end(connection, "a")),
        replicas[1].database.write(lambda connection: end(connection, "b")),
    )
    assert all(one.changed for one in both)
    query = text("SELECT state, version FROM actions")
    [row] = await replicas[2].database.read(lambda connection: connection.execute(query).all())
    assert tuple(row) == (ActionState.COMPLETED, 1)


async def test_an_operation_that_joins_while_the_last_other_one_is_cancelled_gets_an_action_that_goes_on(
    replicas: list[BareQueue],
) -> None:
    await replicas[0].admit(request("a"))

    def end(connection: Connection) -> None:
        cancel(connection, [OperationName("main/a")], now=1000.0)
        connection.execute(HOLD)

    cancelling = asyncio.create_task(replicas[0].database.write(end))
    [joined] = await replicas[1].admit(request("b", document="a"))
    await cancelling
    assert isinstance(joined, Admitted)
    query = text("SELECT state FROM actions JOIN operations ON action_id = id WHERE name = 'main/b'")
    state = await replicas[2].database.read(lambda connection: connection.execute(query).scalar_one())
    assert state == ActionState.QUEUED


async def test_a_look_that_finds_what_another_replica_queued_and_an_assignment_share_a_transaction(
    replicas: list[BareQueue],
) -> None:
    await replicas[0].build("build", 3)
    assigned: Assigned = await replicas[1].database.write(
        lambda connection: replicas[1].assign(connection, idle("bot", 5))
    )
    assert len(assigned.leased) == 3
    assert len(assigned.drained) == 1


def _begin(connection: Connection, bot: str, replica: ReplicaId) -> None:
    connection.execute(insert(bots), {"instance": "main", "bot_id": bot, "session": bot, "replica": replica})
