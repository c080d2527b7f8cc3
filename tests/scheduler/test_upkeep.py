"""What the scheduler does by itself, and what becomes of it when that fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.longrunning import operations_pb2
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from gridwright.digest import DigestFunction
from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_scheduler.completing import Completing
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.postgresql import PostgresqlDatabase
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.database.sqlite import SqliteDatabase
from gridwright_scheduler.queue.names import ActionId, ActionKey, BotKey, LeaseId
from tests.postgres import PostgresServer
from tests.scheduler.databases import Tables, settings_in
from tests.scheduler.grid import Grid, metadata_of, open_grid
from tests.scheduler.scripted_worker import ScriptedWorker
from tests.scheduler.test_restart import answering


async def test_a_database_that_cannot_be_read_is_unavailable_and_ends_nothing(
    tmp_path: Path, database: PostgresServer | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.looks.EVERY_SECONDS", 0.2)
    failed = asyncio.Event()

    async def broken(database: Database, work: Callable[[Connection], Any]) -> Any:
        failed.set()
        raise OperationalError("SELECT", None, Exception("disk I/O error"))

    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        name = (await stream.next()).name
        with monkeypatch.context() as patch:
            patch.setattr(SqliteDatabase if database is None else PostgresqlDatabase, "read", broken)
            await asyncio.wait_for(failed.wait(), 5)  # it looks at what is watched
            with pytest.raises(Unavailable, match="database"):
                await grid.client.get(name)
            with pytest.raises(Unavailable, match="database"):
                await grid.client.operations.list_operations(
                    operations_pb2.ListOperationsRequest(name="main"), timeout=5.0
                )
        worker = await grid.worker()
        await worker.run()
        await stream.response()


async def test_actions_and_bots_of_an_instance_that_is_no_more_do_not_end_the_scheduler(
    tmp_path: Path, tables: Tables
) -> None:
    async with open_grid(tmp_path) as grid:
        for name in ("queued", "executing", "completing"):
            stream = grid.client.execute(await grid.client.upload(name))
            await stream.next()
            await stream.close()
        await grid.worker()
    tables.execute("UPDATE actions SET instance = 'gone', bot_id = 'b', lease_id = 'l' || id, give_up_at = 0")
    earlier = "SELECT count(*) FROM actions AS other WHERE other.sequence < actions.sequence"
    tables.execute(f"UPDATE actions SET state = 1 + ({earlier})")
    tables.execute("UPDATE bots SET instance = 'gone'")
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        await (await grid.worker()).run()
        await stream.response()
        assert tables.execute("SELECT count(*) FROM bots WHERE instance = 'gone'") == [("0",)]
        left = tables.execute("SELECT state, response FROM actions WHERE instance = 'gone'")
    assert [state for state, _ in left] == ["4", "4", "4"]
    for _, digits in left:
        response = re.ExecuteResponse.FromString(bytes.fromhex(digits.removeprefix("\\x")))
        assert "no longer has the instance" in response.status.message


async def test_all_that_is_old_is_forgotten_in_one_round(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_grid(tmp_path) as grid:
        worker = await grid.worker()
        for number in range(5):
            stream = grid.client.execute(await grid.client.upload(str(number)))
            await worker.run()
            await stream.response()
    monkeypatch.setattr("gridwright_scheduler.database.retention.CHUNK", 1)
    monkeypatch.setattr("gridwright_scheduler.upkeep.NOW_AND_THEN", 1_000_000)  # the first, and no other
    tables.execute("UPDATE actions SET finished_at = 0")
    async with open_grid(tmp_path):
        for _ in range(200):
            if tables.execute("SELECT count(*) FROM actions") == [("0",)]:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("some are still there")


async def test_a_platform_is_forgotten_when_no_action_has_it_and_nobody_has_used_it_for_a_day(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.upkeep.HARDLY_EVER", 1)
    there = "SELECT count(*) FROM platforms"
    async with open_grid(tmp_path) as grid:
        for number in range(2):
            stream = grid.client.execute(await grid.client.upload(properties={"OSFamily": f"linux-{number}"}))
            await stream.next()
            await stream.close()
    tables.execute("DELETE FROM actions WHERE sequence = (SELECT max(sequence) FROM actions)")
    async with open_grid(tmp_path) as grid:
        await asyncio.sleep(0.5)  # a round
        assert tables.execute(there) == [("2",)]
        tables.execute("UPDATE platforms SET used_at = used_at - 90000")
        async with asyncio.timeout(5):
            while tables.execute(there) != [("1",)]:  # noqa: ASYNC110  # the tables announce nothing
                await asyncio.sleep(0.1)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload(properties={"OSFamily": "linux-1"}))
        await stream.next()
        assert tables.execute(there) == [("2",)]


async def test_what_a_bot_has_that_nobody_knows_goes_to_another(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.upkeep.SELDOM", 1)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        name = (await stream.next()).name
        await (await grid.worker("lost")).take()
    tables.execute("DELETE FROM bots")
    async with open_grid(tmp_path) as grid:
        stream = grid.client.wait(name)
        await asyncio.wait_for((await grid.worker("found")).run(), 10)
        assert not (await stream.response()).message  # it was nobody's fault


async def test_what_is_to_be_completed_and_was_not_heard_of_is_remembered(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The COMMIT of a settlement was not answered, and the worker did not tell again."""
    monkeypatch.setattr("gridwright_scheduler.upkeep.SELDOM", 1)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true", properties={"OSFamily": "none"}))
        await stream.next()
        await grid.worker()
        tables.execute(
            "UPDATE actions SET state = 3, lease_id = 'main/lease.1', fence = 1, bot_id = 'worker-1', leased_at = 0, "
            f"owner = (SELECT replica FROM bots), give_up_at = 1e10, response = {tables.no_bytes}, succeeded = true"
        )
        await asyncio.wait_for(stream.response(), 10)
        assert len(grid.cache.results) == 1


async def test_an_action_stands_in_the_queue_of_the_completing_once_and_not_while_somebody_is_at_it() -> None:
    completing = Completing()
    one, other = settled("one"), settled("other")
    for _ in range(3):
        completing.add(one)
        completing.add(other)
    assert [await completing.take(), await completing.take()] == [one, other]
    completing.add(one)
    completing.done(other)
    completing.add(other)
    assert await completing.take() == other
    completing.done(one)
    completing.done(other)
    assert len(completing) == 0


async def test_progress_that_cannot_be_read_is_not_shown(grid: Grid) -> None:
    stream = grid.client.execute(await grid.client.upload("true"))
    worker = await grid.worker()
    [lease] = await worker.take()
    key = f"partial-execution-metadata-{lease.id.rpartition('/')[2]}-bin"
    poll = worker.poll([(key, b"\xff\xff\xff")])
    assert metadata_of(await stream.until(re.ExecutionStage.EXECUTING)).partial_execution_metadata.worker == "worker-1"
    poll.cancel()
    worker.finish(lease.id, re.ActionResult())
    await worker.update([(key, b"\xff\xff\xff")])
    await stream.response()


async def test_a_scheduler_whose_background_task_fails_answers_its_polls_and_exits_to_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {
        "scheduler": {"listen": "unix:scheduler.sock", "admin": "unix:admin.sock", "drain_seconds": 60}
    }
    settings["scheduler"]["database"] = settings_in(tmp_path)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FAILING, "--config", "grid.yaml", stderr=asyncio.subprocess.DEVNULL
    )
    async with GrpcChannel("unix:scheduler.sock") as channel:
        await answering(channel)
        worker = ScriptedWorker(channel)
        await worker.create()
        poll = worker.poll()
        await asyncio.sleep(0.1)
        (tmp_path / "fail").touch()
        assert await asyncio.wait_for(process.wait(), 20) == 1
        await asyncio.wait([poll])
        assert not poll.result().leases


#: A scheduler that fails when it finds the file "fail".
FAILING = """
from pathlib import Path
from gridwright_scheduler.__main__ import main
from gridwright_scheduler.watchman import Watchman

async def fail(watchman):
    if Path("fail").exists():
        raise RuntimeError("a fault of ours")

Watchman.give_up_overdue = fail
main()
"""


def settled(name: str) -> Settled:
    key = ActionKey("main", DigestFunction.SHA256.digest(name.encode()))
    leased = Leased(
        ActionId(name), LeaseId(f"main/{name}"), BotKey("main", "bot"), key, b"", False, queued_at=0.0, failures=(),
        give_up_at=0.0,
    )  # fmt: skip
    return Settled(leased, leased.snapshot(), None, None)
