"""Bots that go from one scheduler to another; the schedulers share a database, and sit in one process here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from structlog.testing import capture_logs

from gridwright.errors import Aborted, Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.session import Session
from tests.scheduler.bare_queue import idle, request
from tests.scheduler.databases import Tables, database_in
from tests.scheduler.reception import BOT, REATTACH_SECONDS, SILENCE_SECONDS, WELL, Reception, open_reception


@pytest.fixture
async def both(tmp_path: Path, one_replica: None) -> AsyncIterator[tuple[Reception, Reception]]:
    """Two schedulers on one database."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(database_in(tmp_path)))
        here, there = [await stack.enter_async_context(open_reception(database, clock)) for _ in range(2)]
        yield here, there


@contextmanager
def statements() -> Iterator[list[str]]:
    """Note the statements that are run, but for reads that lock nothing."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("SELECT") or "FOR " in statement:
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def give_something(reception: Reception, session: Session) -> str:
    """Let the tables say that the bot holds an action, which is not in memory anywhere; return the lease."""
    await reception.tables.admit(request("action"))
    worker = idle(session.bot.bot_id, session=session.name)
    [leased] = await reception.tables.give(worker)
    return leased.lease_id


async def test_a_bot_belongs_to_whom_it_last_called_and_takes_along_what_it_holds(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    session = await here.come()
    lease = await give_something(here, session)
    moved = await there.call(session.name)
    assert list(moved.leases) == [lease]
    assert owner(tables) == there.replica.id
    assert not session.leases
    back = await here.call(session.name)
    assert back is not session
    assert list(back.leases) == [lease]
    assert owner(tables) == here.replica.id


async def test_that_a_bot_wanders_is_told_only_if_whom_it_leaves_is_dead(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    session = await here.come()
    seen_at = here.clock.now()
    tables.execute(f"INSERT INTO replicas VALUES ('{there.replica.id}', {seen_at}, {seen_at})")
    with capture_logs() as told:
        await there.call(session.name)  # from one that was never there
        await here.call(session.name)
    assert [(one["event"], one["log_level"]) for one in told] == [
        ("worker_adopted", "info"),
        ("worker_adopted", "debug"),
    ]


async def test_a_call_that_brings_nothing_new_is_remembered_and_costs_neither_a_write_nor_a_lock(
    both: tuple[Reception, Reception],
) -> None:
    here, _ = both
    session = await here.come()
    with statements() as seen:
        assert await here.call(session.name) is session
    assert [one for one in seen if not one.startswith(("BEGIN", "COMMIT", "SAVEPOINT"))] == []
    ill = WELL._replace(healthy=False)
    with statements() as seen:
        assert await here.call(session.name, description=ill) is session
    assert [one for one in seen if one.startswith("UPDATE bots")]


async def test_what_a_bot_says_of_itself_is_stored(both: tuple[Reception, Reception], tables: Tables) -> None:
    here, there = both
    session = await here.come(description=WELL._replace(capacity=7))
    columns = "SELECT offer, CAST(ours AS int), CAST(healthy AS int), capacity FROM bots"
    assert tables.execute(columns) == [('[["OSFamily", "linux"]]', "1", "1", "7")]
    await there.call(session.name, description=WELL._replace(healthy=False))
    assert tables.execute(columns) == [('[["OSFamily", "linux"]]', "1", "0", "1")]


async def test_calls_of_idle_bots_share_a_transaction(both: tuple[Reception, Reception]) -> None:
    here, _ = both
    keys = [BotKey("main", f"bot-{number}") for number in range(20)]
    names = {bot: (await here.come(bot)).name for bot in keys}
    before = here.database.writes
    await asyncio.gather(*(here.call(names[bot], bot, hurry=False) for bot in keys))
    assert here.database.writes == before + 1


async def test_a_bot_that_left_is_forgotten_and_nothing_of_it_changes(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    session = await here.come()
    lease = await give_something(here, session)
    await there.call(session.name)
    here.clock.advance(SILENCE_SECONDS + 1)
    with (await there.call(session.name)).poll():
        for _ in range(2):
            await here.attendance.end_silent()
        assert len(here.sessions) == 0
        assert tables.execute("SELECT state, lease_id FROM actions") == [("2", lease)]
        assert owner(tables) == there.replica.id


async def test_what_a_silent_bot_holds_is_for_others(both: tuple[Reception, Reception], tables: Tables) -> None:
    """BOT-19: also what is not remembered."""
    here, _ = both
    await give_something(here, await here.come())
    here.clock.advance(SILENCE_SECONDS + 1)
    for _ in range(2):
        await here.attendance.end_silent()
    assert tables.execute("SELECT state FROM actions") == [("1",)]
    assert tables.execute("SELECT * FROM bots") == []


async def test_a_newer_session_at_one_ends_the_older_at_all(both: tuple[Reception, Reception]) -> None:
    """BOT-03."""
    here, there = both
    older = await here.come()
    newer = await there.come()
    for reception in both:
        with pytest.raises(Aborted):
            await reception.call(older.name)
    assert len(here.sessions) == 0
    assert await there.call(newer.name) is newer


async def test_a_session_that_nobody_knows_is_adopted_but_for_a_newer_one(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    name = SessionName("main/of-old")
    assert (await here.call(name)).name == name
    assert (await there.call(name)).name == name
    with pytest.raises(Aborted):
        await here.call(SessionName("main/other"))
    assert tables.execute("SELECT session FROM bots") == [(name,)]


async def test_two_calls_of_a_bot_at_once_have_one_session(both: tuple[Reception, Reception]) -> None:
    here, there = both
    session = await here.come()
    first, second = await asyncio.gather(*(there.call(session.name) for _ in range(2)))
    assert first is second


async def test_after_a_claim_whose_end_is_unknown_the_tables_are_asked(both: tuple[Reception, Reception]) -> None:
    here, there = both
    session = await here.come()
    moved = await there.call(session.name)
    lease = await give_something(there, moved)
    here.database.commit_unanswered = True
    with pytest.raises(Unavailable):
        await here.call(session.name)
    here.database.commit_unanswered = False
    with session.poll():
        assert not here.sessions.idle()
    assert list((await here.call(session.name)).leases) == [lease]


async def test_a_scheduler_takes_so_many_bots_and_no_more(tmp_path: Path, one_replica: None) -> None:
    async with (
        open_database(database_in(tmp_path)) as database,
        open_reception(database, FakeClock(), max_sessions=2) as here,
    ):
        first, second, third = [BotKey("main", name) for name in ("first", "second", "third")]
        session = await here.come(first)
        await here.come(second)
        with pytest.raises(Unavailable, match="max_sessions"):
            await here.come(third)
        with pytest.raises(Unavailable, match="max_sessions"):
            await here.call(SessionName("main/unknown"), third)
        await here.call(session.name, first)
        await here.come(first)  # anew
        await here.attendance.end(session, "it left")  # of old
        current = here.sessions.find(first)
        assert current is not None
        await here.attendance.end(current, "it left")
        await here.come(third)


async def test_the_bots_of_a_scheduler_that_died_have_more_time_than_others_to_come_back(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    session = await here.come()
    lease = await give_something(here, session)
    alive(tables, here)
    await there.attendance.adopt_of_dead()
    assert len(there.sessions) == 0
    tables.execute("DELETE FROM replicas")
    alive(tables, there)
    await there.attendance.adopt_of_dead()
    [adopted] = there.sessions
    assert (adopted.name, list(adopted.leases), adopted.offer) == (session.name, [lease], WELL.offer)
    there.clock.advance(SILENCE_SECONDS + REATTACH_SECONDS - 1)
    assert there.sessions.silent() == []
    there.clock.advance(2)
    assert there.sessions.silent() == [adopted]


async def test_a_bot_that_is_held_where_it_no_longer_belongs_is_let_go(both: tuple[Reception, Reception]) -> None:
    """As when a call that it hung up on comes late to another scheduler."""
    here, there = both
    session = await here.come()
    lease = await give_something(here, session)
    session = await there.call(session.name)
    with session.poll() as poll:
        await here.call(session.name)
        await there.look()
        assert poll.news.is_set()
        assert not poll.revoked
    assert there.sessions.find(BOT) is None
    assert list(session.leases) == [lease]


async def test_a_lease_that_another_scheduler_ended_is_taken(both: tuple[Reception, Reception]) -> None:
    here, there = both
    lease = await give_something(here, await here.come())
    session = await there.call(next(iter(here.sessions)).name)
    assert list(session.leases) == [lease]
    with session.poll() as poll:
        await there.look()
        assert not poll.news.is_set()
        await here.tables.cancel(["action"])
        await there.look()
        assert poll.revoked
    assert not session.leases


async def test_a_lease_that_no_bot_holds_is_given_back_after_a_while(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    await give_something(here, await here.come())
    for seconds in (0, 2, 2):
        here.clock.advance(seconds)
        await here.look()
        await there.look()
        assert tables.execute("SELECT state FROM actions") == [("2",)]
    here.clock.advance(2)
    await there.look()  # it is not its
    assert tables.execute("SELECT state FROM actions") == [("2",)]
    await here.look()
    assert tables.execute("SELECT state FROM actions") == [("1",)]


async def test_a_lease_of_a_bot_that_has_no_session_is_given_back_by_anybody(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, there = both
    await give_something(here, await here.come())
    tables.execute("DELETE FROM bots")
    await there.look()
    here.clock.advance(6)
    await there.look()
    assert tables.execute("SELECT state FROM actions") == [("1",)]


async def test_a_bot_that_hung_up_as_its_session_began_is_forgotten(
    both: tuple[Reception, Reception], tables: Tables
) -> None:
    here, _ = both
    session = await here.come()
    here.sessions.end(session)
    for _ in range(2):
        assert tables.execute("SELECT count(*) FROM bots") == [("1",)]
        await here.look()
        here.clock.advance(31)
    await here.look()
    assert tables.execute("SELECT count(*) FROM bots") == [("0",)]


def owner(tables: Tables) -> str:
    """Return whose the bot is."""
    [(replica,)] = tables.execute("SELECT replica FROM bots")
    return replica


def alive(tables: Tables, reception: Reception) -> None:
    """Let the tables say that the scheduler is alive."""
    now = reception.clock.now()
    tables.execute(f"INSERT INTO replicas (id, started_at, seen_at) VALUES ('{reception.replica.id}', {now}, {now})")
