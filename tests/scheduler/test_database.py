"""What happens when the database fails, and how turns group what is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.rpc import code_pb2
from sqlalchemy import Connection, text

from gridwright.errors import ConfigurationError, GridwrightError, InvalidRequest, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.turns import Commands, Turns
from tests.scheduler.databases import Tables, database_in
from tests.scheduler.grid import open_grid


async def test_a_database_that_is_locked_is_unavailable_to_clients_and_workers_and_nothing_is_lost(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a stock worker any other code would be the end of its jobs."""
    monkeypatch.setattr("gridwright_scheduler.database.sqlite._BUSY_TIMEOUT_MS", 100)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        name = (await stream.next()).name
        worker = await grid.worker(ours=False)
        [lease] = await worker.take()
        worker.finish(lease.id, pb.ActionResult(stdout_raw=b"kept"))
        told = worker.session
        with tables.failing():
            with pytest.raises(Unavailable):
                await worker.update()
            with pytest.raises(Unavailable):
                await grid.client.execute(await grid.client.upload("more")).next()
            with pytest.raises(Unavailable):
                await grid.worker("another")
            assert not (await grid.client.get(name)).done  # reading goes on
        worker.session = told
        response = await worker.report_until(stream.response())
        assert response.status.code == code_pb2.OK
        assert response.result.stdout_raw == b"kept"


async def test_what_comes_together_is_written_together(tmp_path: Path) -> None:
    sizes: list[int] = []

    def insert(connection: Connection, commands: Sequence[int]) -> Sequence[int | GridwrightError]:
        sizes.append(len(commands))
        connection.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": number} for number in commands])
        return commands

    async with open_turns(tmp_path) as (database, turns):
        commands = Commands[int, int](turns, insert)
        assert await asyncio.gather(*(commands(number) for number in range(300))) == list(range(300))
        assert len(sizes) < 5
        assert await count(database) == 300


async def test_one_bad_command_does_not_spoil_the_others(tmp_path: Path) -> None:
    def insert(connection: Connection, commands: Sequence[int]) -> Sequence[int | GridwrightError]:
        connection.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": number} for number in commands])
        return commands

    async with open_turns(tmp_path) as (database, turns):
        commands = Commands[int, int](turns, insert)
        results = await asyncio.gather(*(commands(number) for number in (1, 2, 2, 3)), return_exceptions=True)
        assert [isinstance(result, Unavailable) for result in results] == [False, False, True, False]
        assert await count(database) == 3


async def test_a_command_that_ends_in_an_error_tells_only_its_sender(tmp_path: Path) -> None:
    def refuse_odd(connection: Connection, commands: Sequence[int]) -> Sequence[int | GridwrightError]:
        return [InvalidRequest("odd") if number % 2 else number for number in commands]

    committed: list[int] = []
    async with open_turns(tmp_path) as (_, turns):
        commands = Commands[int, int](turns, refuse_odd, committed=lambda command, result: committed.append(result))
        results = await asyncio.gather(*(commands(number) for number in range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [int, InvalidRequest, int, InvalidRequest]
        assert committed == [0, 2]


async def test_a_sender_that_goes_away_leaves_its_command(tmp_path: Path) -> None:
    committed = asyncio.Event()
    async with open_turns(tmp_path) as (_, turns):
        commands = Commands[int, int](turns, lambda _, found: found, committed=lambda *_: committed.set())
        sender = asyncio.create_task(commands(1))
        await asyncio.sleep(0)
        sender.cancel()
        await asyncio.wait_for(committed.wait(), 5)


async def test_a_file_has_one_scheduler_at_a_time(tmp_path: Path, sqlite_only: None) -> None:
    settings = database_in(tmp_path)
    async with open_database(settings):
        with pytest.raises(ConfigurationError, match="another scheduler uses"):
            async with open_database(settings):
                pytest.fail("it would hear nothing of the other")
    async with open_database(settings):
        pass


@asynccontextmanager
async def open_turns(directory: Path) -> AsyncIterator[tuple[Database, Turns]]:
    async with open_database(database_in(directory)) as database:
        await database.write(lambda connection: connection.execute(text("CREATE TABLE numbers (n INTEGER UNIQUE)")))
        turns = Turns(database)
        running = asyncio.create_task(turns.run())
        try:
            yield database, turns
        finally:
            running.cancel()
            await asyncio.wait([running])


async def count(database: Database) -> int:
    return await database.read(lambda connection: connection.execute(text("SELECT count(*) FROM numbers")).scalar_one())
