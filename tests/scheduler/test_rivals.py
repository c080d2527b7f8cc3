"""What schedulers that share tables can do to each other, be it by a pause, a delay or an answer that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.util import await_only

from gridwright.digest import DigestFunction
from gridwright.errors import NotFound, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.testing.clock import FakeClock
from gridwright.wire.digests import digest_message
from gridwright_scheduler.board import Board
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.postgresql_notices import NoticeConnection
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.documents import Documents, parse_action
from gridwright_scheduler.interest import Interest
from gridwright_scheduler.queue.names import ActionId, BotKey
from gridwright_scheduler.queue.settling import Announce, CheckInputs, Finish, Outcome, Retry
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.shifted_clock import ShiftedClock
from tests.postgres import PostgresServer
from tests.scheduler.bare_queue import BareQueue, idle, request
from tests.scheduler.databases import TEMPLATE, Tables, database_in, use_postgresql
from tests.scheduler.grid import open_grid
from tests.scheduler.reception import BOT, SILENCE_SECONDS, open_reception

DONE = Finish(b"response", succeeded=True, cacheable=True)
LATE = Finish(b"too late", succeeded=False, cacheable=False)


@pytest.fixture
async def queue(tmp_path: Path, one_replica: None) -> AsyncIterator[BareQueue]:
    async with open_database(database_in(tmp_path)) as database:
        yield BareQueue(database)


@pytest.fixture
def shared(tmp_path: Path, postgres: PostgresServer) -> Iterator[DatabaseSettings]:
    """A database that schedulers in ``tmp_path`` share."""
    name = postgres.new_database(TEMPLATE)
    use_postgresql(tmp_path, postgres, name)
    yield database_in(tmp_path)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("outcome", [Retry("worker one stopped answering"), LATE])
async def test_who_finds_a_lease_overdue_after_its_bot_told_its_end_changes_nothing(
    queue: BareQueue, tables: Tables, outcome: Outcome
) -> None:
    await queue.admit(request("a"))
    [leased] = await queue.give(idle("one"))
    assert await queue.settle(leased, DONE, bot=leased.bot) is not None
    before = tables.execute("SELECT * FROM actions")
    assert await queue.settle(leased, outcome) is None
    assert tables.execute("SELECT * FROM actions") == before
    announced = await queue.settle(leased, Announce())
    assert announced is not None
    assert announced.snapshot.response == b"response"


@pytest.mark.parametrize("first", [DONE, CheckInputs("an input")])
@pytest.mark.parametrize("again", [DONE, LATE, Retry("worker one gave the action up"), CheckInputs("an input")])
async def test_a_bot_that_tells_an_end_again_has_it_completed_and_changes_nothing(
    queue: BareQueue, tables: Tables, first: Outcome, again: Outcome
) -> None:
    await queue.admit(request("a"))
    [leased] = await queue.give(idle("one"))
    settled = await queue.settle(leased, first, bot=leased.bot)
    before = tables.execute("SELECT * FROM actions")
    told = await queue.settle(leased, again, bot=BotKey("main", "one"))
    assert settled is not None
    assert told is not None
    assert told.snapshot.state is ActionState.COMPLETING
    assert told.response == settled.response
    assert tables.execute("SELECT * FROM actions") == before


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_scheduler_that_is_stopped_in_a_transaction_is_not_waited_for_long(
    shared: DatabaseSettings, monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    """Nor is one whose machine is gone: TCP finds that out in hours."""
    monkeypatch.setattr("gridwright_scheduler.database.postgresql._IDLE_SECONDS", 0.5)
    settings = shared.model_copy(update={"prepared_statements": prepared})
    stopped, locked = asyncio.Event(), asyncio.Event()

    def lock(connection: Connection) -> None:
        connection.execute(text("LOCK TABLE virtual_times"))

    def lock_and_stop(connection: Connection) -> None:
        lock(connection)
        if not stopped.is_set():
            stopped.set()
            await_only(locked.wait())
            lock(connection)

    async with open_database(settings) as one, open_database(settings) as other:
        stopping = asyncio.create_task(one.write(lock_and_stop))
        await stopped.wait()
        await asyncio.wait_for(other.write(lock), 5)
        locked.set()
        await stopping  # in another transaction


async def test_a_server_that_lets_nobody_listen_is_not_asked_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_scheduler.database.postgresql_notices._FIRST_PAUSE_SECONDS", 0.05)
    standby, connects = _Standby(), 0

    async def connect() -> Any:
        nonlocal connects
        connects += 1
        return standby

    heard: list[Topic] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(NoticeConnection(connect).listen(heard.append), 0.5)
    assert not heard
    assert 1 < connects < 6


class _Standby:
    """A connection to a server that has not been promoted yet."""

    def add_termination_listener(self, callback: object) -> None:
        pass

    async def add_listener(self, channel: str, callback: object) -> None:
        raise asyncpg.ReadOnlySQLTransactionError("cannot execute LISTEN during recovery")

    def terminate(self) -> None:
        pass


async def test_a_step_of_the_own_clock_is_none_of_the_clock_that_all_go_by() -> None:
    own = FakeClock(now=1_000.0)
    clock = ShiftedClock(own)
    clock.measured(5_000.0, since=own.monotonic())
    own.set_back(3_600.0)
    assert clock.now() == pytest.approx(5_000.0)
    own.advance(2.0)
    assert clock.now() == pytest.approx(5_002.0)


async def test_a_scheduler_that_was_stopped_hears_first_who_called_meanwhile(tmp_path: Path, one_replica: None) -> None:
    clock = FakeClock()
    async with open_database(database_in(tmp_path)) as database, open_reception(database, clock) as here:
        session = await here.come()
        clock.advance(SILENCE_SECONDS + 1)
        await here.attendance.end_silent()
        assert await here.call(session.name) is session
        with session.poll():  # its call was there all the time
            await here.attendance.end_silent()
        await here.attendance.end_silent()
        assert here.sessions.find(BOT) is session


async def test_after_bots_were_adopted_without_an_answer_the_tables_are_asked(
    tmp_path: Path, tables: Tables, one_replica: None
) -> None:
    clock = FakeClock()
    async with (
        open_database(database_in(tmp_path)) as database,
        open_reception(database, clock) as here,
        open_reception(database, clock) as there,
    ):
        session = await here.come()
        await there.call(session.name)
        await there.tables.admit(request("a"))
        [leased] = await there.tables.give(idle("bot", session=session.name))
        assert not session.leases  # it is remembered here, without a poll
        here.database.commit_unanswered = True
        with pytest.raises(Unavailable):
            await here.attendance.adopt_of_dead()
        here.database.commit_unanswered = False
        assert tables.execute("SELECT replica FROM bots") == [(here.replica.id,)]
        assert list((await here.call(session.name)).leases) == [leased.lease_id]


async def test_the_stream_of_an_action_that_is_in_no_table_any_more_ends(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a scheduler was stopped until all had forgotten it."""
    monkeypatch.setattr("gridwright_scheduler.looks.EVERY_SECONDS", 0.2)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        name = (await stream.next()).name
        tables.execute("DELETE FROM operations")
        tables.execute("DELETE FROM actions")
        with pytest.raises(Unavailable, match="execute it again"):
            await asyncio.wait_for(stream.next(), 5)
        with pytest.raises(NotFound):
            await grid.client.wait(name).next()


async def test_a_scheduler_with_older_settings_ends_nothing_that_a_living_one_took_in(
    tmp_path: Path, shared: DatabaseSettings, postgres: PostgresServer
) -> None:
    name, states = shared.url.rpartition("/")[2], "SELECT state FROM actions"
    async with open_grid(tmp_path) as newer:
        stream = newer.client.execute(await newer.client.upload("true"))
        await stream.next()
        postgres.sql("UPDATE actions SET instance = 'new'", database=name)
        async with open_grid(tmp_path):
            assert postgres.sql(states, database=name) == "1"
    async with open_grid(tmp_path):
        assert postgres.sql(states, database=name) == "4"


async def test_who_begins_to_lead_gives_the_others_time_to_say_who_waits(
    tmp_path: Path, tables: Tables, one_replica: None
) -> None:
    clock, board = FakeClock(), Board()
    async with open_database(database_in(tmp_path)) as database, open_reception(database, clock) as here:
        operations = Operations(database)
        interest = Interest(here.queue, here.turns, operations, board, clock, abandon_after_seconds=0.2)
        await here.tables.admit(request("a", arrived_at=clock.now() - 100))
        clock.advance(100)
        leads = False
        running = asyncio.create_task(interest.run(lambda: leads))
        await asyncio.sleep(0.2)
        leads = True
        await asyncio.sleep(0.2)
        assert tables.execute("SELECT count(cancelled_at) FROM operations") == [("0",)]
        async with asyncio.timeout(5):
            while tables.execute("SELECT count(cancelled_at) FROM operations") == [("0",)]:
                clock.advance(0.02)
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])


async def test_turns_that_are_about_the_same_actions_in_another_order_wait_for_each_other_and_no_longer(
    shared: DatabaseSettings,
) -> None:
    settled = 0

    def hold(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal settled
        if "actions.no_retry" in statement and statement.startswith("SELECT"):
            settled += 1
            await_only(asyncio.sleep(0.3))  # long enough for the other to come to its own

    clock = FakeClock()
    async with AsyncExitStack() as stack:
        both = [
            await stack.enter_async_context(
                open_reception(await stack.enter_async_context(open_database(shared)), clock)
            )
            for _ in range(2)
        ]
        await both[0].tables.admit(request("x"), request("y"))
        leased = {one.action_id: one for one in await BareQueue(both[0].database).give(idle("bot", 2))}
        x, y = leased[ActionId("x")], leased[ActionId("y")]
        event.listen(Engine, "before_cursor_execute", hold)
        stack.callback(event.remove, Engine, "before_cursor_execute", hold)
        turns = []
        for reception, joined, done in ((both[0], "x", y), (both[1], "y", x)):
            reception.replica.alone = False
            again = request(f"{joined} again", document=joined, arrived_at=clock.now())
            turns += [reception.queue.admit(again), reception.queue.settle(done.lease_id, DONE)]
        await asyncio.wait_for(asyncio.gather(*turns), 5)
    assert settled == 2


async def test_what_a_scheduler_with_newer_settings_left_undone_ends_no_older_one() -> None:
    key = request("a").key
    command = DigestFunction.SHA256.digest(b"a command")
    action = re.Action(command_digest=digest_message(command), input_root_digest=digest_message(command))
    with pytest.raises(Unavailable, match="main"):
        await Documents({}).missing_inputs(key, parse_action(key.digest, action.SerializeToString()))
