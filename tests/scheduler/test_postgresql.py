"""What only a server can do to a scheduler: be killed, be away, be slow, be shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from gridwright.digest import DigestFunction
from gridwright.errors import ConfigurationError, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.admissions import Admissions, Admitted, Request
from gridwright_scheduler.database.assignments import Assigned, Bounds, assign
from gridwright_scheduler.database.opening import migrate_database, open_database
from gridwright_scheduler.database.queue_room import QueueRoom
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import ActionId, ActionKey, BotKey, OperationName
from gridwright_scheduler.queue.platform import Offer, Requirements, platform_id
from tests.postgres import PostgresServer, postgres_server
from tests.scheduler.databases import database_in, settings_in, use_postgresql
from tests.scheduler.grid import open_grid
from tests.scheduler.test_restart import persistent, work_through_anything

LIST = operations_pb2.ListOperationsRequest(name="main")
Ask = Callable[[Callable[[Connection], int]], Awaitable[int]]
NEEDS = Requirements("main", (), ours_only=False)
#: Long enough for another transaction to come to the same rows.
HOLD = text("SELECT pg_sleep(0.5)")


@pytest.fixture
def durable_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server of the test's own, which loses nothing when it is killed; schedulers in ``tmp_path`` use it."""
    with postgres_server(durable=True) as server:
        use_postgresql(tmp_path, server, "postgres")
        asyncio.run(migrate_database(database_in(tmp_path)))
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgres: PostgresServer) -> Iterator[DatabaseSettings]:
    """A database that two may open at once."""
    name = postgres.new_database("template_of_tests")
    yield DatabaseSettings(url=postgres.url(name), prepared_statements=False)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_server_that_is_killed_under_load_loses_nothing_that_anybody_was_told(
    tmp_path: Path, durable_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What became of a COMMIT without an answer, a look at the tables finds out.
    monkeypatch.setattr("gridwright_scheduler.upkeep.SELDOM", 2)
    async with open_grid(tmp_path) as grid:
        worker = await grid.worker(capacity=4)
        working = asyncio.create_task(work_through_anything(worker))
        digests = [await grid.client.upload("true", str(number)) for number in range(120)]
        executing = [asyncio.create_task(persistent(grid.client, digest)) for digest in digests]
        for finished in (10, 60):
            await asyncio.gather(*executing[:finished])
            await asyncio.to_thread(durable_postgres.kill)
            await asyncio.to_thread(durable_postgres.start)
        responses = await asyncio.gather(*executing)
        assert all(response.status.code == code_pb2.OK for response in responses)
        assert len(grid.cache.results) == 120
        assert durable_postgres.sql("SELECT count(*), count(DISTINCT hash) FROM actions WHERE succeeded") == "120|120"
        working.cancel()


async def test_a_server_that_is_away_is_unavailable_and_ends_nothing(
    tmp_path: Path, durable_postgres: PostgresServer
) -> None:
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        name = (await stream.next()).name
        worker = await grid.worker(ours=False)
        [lease] = await worker.take()
        told = worker.session
        durable_postgres.stop()
        worker.finish(lease.id, pb.ActionResult(stdout_raw=b"kept"))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await worker.update()
            with pytest.raises(Unavailable):
                await grid.client.execute(await grid.client.upload("more")).next()
            with pytest.raises(Unavailable):
                await grid.client.get(name)
            await asyncio.sleep(1.2)  # rounds of upkeep, all in vain
        durable_postgres.start()
        worker.session = told
        await worker.update()
        assert (await stream.response()).result.stdout_raw == b"kept"


async def test_a_server_that_keeps_its_connections_and_answers_nothing_is_given_up(
    tmp_path: Path, durable_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.database.postgresql._STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr("gridwright_scheduler.database.postgresql._CONNECT_SECONDS", 0.5)
    async with open_grid(tmp_path) as grid:
        digest = await grid.client.upload("true")
        durable_postgres.freeze()
        try:
            with pytest.raises(Unavailable, match="database"):
                await grid.client.execute(digest).next()
        finally:
            durable_postgres.thaw()
        again = asyncio.create_task(persistent(grid.client, digest))
        worker = await grid.worker()
        await worker.run()
        assert (await again).status.code == code_pb2.OK


async def test_connections_that_broke_while_nobody_used_them_are_made_anew_unnoticed(
    shared: DatabaseSettings, postgres: PostgresServer
) -> None:
    async def ask(answer: Ask) -> int:
        return await answer(lambda connection: connection.execute(text("SELECT 1")).scalar_one())

    async with open_database(shared) as database:
        name = shared.url.rpartition("/")[2]
        for _ in range(2):
            assert await ask(database.write) == await ask(database.read) == 1
            postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_transaction_that_others_got_in_the_way_of_is_tried_again_and_not_for_ever(
    shared: DatabaseSettings, state: str
) -> None:
    tries = 0

    def conflict(connection: Connection, *, times: int) -> int:
        nonlocal tries
        tries += 1
        if tries <= times:
            connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return tries

    async with open_database(shared) as database:
        assert await database.write(lambda connection: conflict(connection, times=2)) == 3
        tries = 0
        with pytest.raises(DBAPIError):
            await database.write(lambda connection: conflict(connection, times=1000))
        assert tries == 4
        assert await database.write(lambda connection: conflict(connection, times=0)) == 5


async def test_statements_can_be_left_unprepared(tmp_path: Path, postgres: PostgresServer) -> None:
    """PgBouncer gives each transaction any connection, so that nothing may be kept in one."""
    name = postgres.new_database("template_of_tests")
    use_postgresql(tmp_path, postgres, name)
    async with open_grid(tmp_path, database={**settings_in(tmp_path), "prepared_statements": False}) as grid:
        worker = await grid.worker()
        streams = [grid.client.execute(await grid.client.upload(str(number))) for number in range(20)]
        for _ in streams:
            await worker.run()
        for stream in streams:
            assert (await stream.response()).status.code == code_pb2.OK
        assert len((await grid.client.operations.list_operations(LIST, timeout=10.0)).operations) == 20
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_of_two_that_take_in_equal_actions_at_once_one_joins_the_other(shared: DatabaseSettings) -> None:
    requests = [[request(f"{who}{number}", b"%d" % number) for number in order] for who, order in _ORDERS]
    requests[1][0] = request("b0", b"0", priority=-1)

    def admit(connection: Connection, which: int) -> list[Admitted]:
        admitted = Admissions(QueueRoom(100)).admit(connection, requests[which])
        connection.execute(HOLD)
        return [one for one in admitted if isinstance(one, Admitted)]

    async with open_database(shared) as one, open_database(shared) as other:
        first, second = await asyncio.gather(
            one.write(lambda connection: admit(connection, 0)), other.write(lambda connection: admit(connection, 1))
        )
        assert len(first) == len(second) == 3
        assert sorted([first[0].joined, second[0].joined]) == [False, True]
        assert {a.snapshot.action_id for a in first} == {a.snapshot.action_id for a in second}
        query = text(
            "SELECT (SELECT count(*) FROM actions), (SELECT count(*) FROM operations), min(priority) FROM actions"
        )
        assert await one.read(lambda connection: tuple(connection.execute(query).one())) == (3, 6, -1)


#: Each has the same three, in another order.
_ORDERS = (("a", (0, 1, 2)), ("b", (0, 2, 1)))


async def test_of_two_that_assign_at_once_each_gives_away_what_the_other_does_not(shared: DatabaseSettings) -> None:
    requests = [request(f"a{number}", b"%d" % number) for number in range(4)]

    def give(connection: Connection, bot: str) -> Assigned:
        worker = IdleWorker(BotKey("main", bot), Offer("main", frozenset(), ours=True), 2)
        given = assign(
            connection,
            workers=[worker],
            wanted={platform_id(NEEDS): NEEDS},
            bounds=Bounds(1, 1),
            avoiding=True,
            now=1000.0,
        )
        connection.execute(HOLD)
        return given

    async with open_database(shared) as one, open_database(shared) as other:
        await one.write(lambda connection: Admissions(QueueRoom(100)).admit(connection, requests))
        rounds = await asyncio.gather(
            one.write(lambda connection: give(connection, "one")),
            other.write(lambda connection: give(connection, "other")),
        )
        given = [leased.action_id for assigned in rounds for leased in assigned.leased]
        assert len(given) == len(set(given)) == 4


@pytest.mark.parametrize("where", ["file", "environment"])
async def test_the_password_may_stand_in_a_file_or_the_environment(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    name = postgres.new_database("template_of_tests")
    postgres.sql(
        "DROP ROLE IF EXISTS guarded",
        "CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'sesame'",
    )
    url = postgres.url(name).replace("postgres@", "guarded@")
    file = tmp_path / "password"
    file.write_text("sesame\n")
    monkeypatch.setenv("THE_PASSWORD", "sesame")
    kept = {"password_file": file} if where == "file" else {"password_env": "THE_PASSWORD"}
    async with open_database(DatabaseSettings(url=url, **kept)):
        pass
    file.write_text("wrong")
    monkeypatch.setenv("THE_PASSWORD", "wrong")
    with pytest.raises(ConfigurationError, match="the user and the password are right") as refused:
        async with open_database(DatabaseSettings(url=url, **kept)):
            pytest.fail("that is not its password")
    assert "wrong" not in str(refused.value)
    file.unlink()
    monkeypatch.delenv("THE_PASSWORD")
    with pytest.raises(ConfigurationError, match=r"there is no file|has no variable"):
        async with open_database(DatabaseSettings(url=url, **kept)):
            pytest.fail("there is no password")
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)", "DROP ROLE guarded")


def request(name: str, document: bytes, *, priority: int = 0) -> Request:
    return Request(
        operation=OperationName(name),
        action_id=ActionId(name),
        key=ActionKey("main", DigestFunction.SHA256.digest(document)),
        action=document,
        do_not_cache=False,
        requirements=NEEDS,
        priority=priority,
        timeout_seconds=None,
        arrived_at=1000.0,
    )
