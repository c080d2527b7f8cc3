"""Whatever happens as bots come and go, what they held is done by somebody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gridwright.errors import Aborted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.testing.clock import FakeClock
from gridwright_scheduler.action_queue import ActionQueue, Errand
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions
from tests.scheduler.databases import Tables
from tests.scheduler.grid import open_grid
from tests.scheduler.scripted_worker import ScriptedWorker

QUICK = {"silence_seconds": 0.5, "heartbeat_seconds": 0.1}


async def test_a_lease_that_no_session_holds_goes_to_another_worker(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.lease_look._ORPHANED_SECONDS", 1.0)
    async with open_grid(tmp_path, max_attempts=1) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        holder = await grid.worker("holder")
        await holder.take()
        tables.execute("UPDATE actions SET lease_id = 'main/lost.1'")
        other = await grid.worker("other")
        await asyncio.wait_for(other.run(re.ActionResult(stdout_raw=b"found")), 10)
        response = await stream.response()
        assert response.result.stdout_raw == b"found"
        assert not response.message  # nobody failed


async def test_a_lease_that_is_no_longer_current_leaves_its_session_when_the_bot_is_through(
    tmp_path: Path, tables: Tables
) -> None:
    async with open_grid(tmp_path) as grid:
        first = grid.client.execute(await grid.client.upload("first"))
        worker = await grid.worker()
        [lease] = await worker.take()
        tables.execute(f"UPDATE actions SET state = 4, response = {tables.no_bytes}, finished_at = 1e12")
        worker.finish(lease.id, re.ActionResult())
        assert not (await worker.update()).leases
        second = grid.client.execute(await grid.client.upload("second"))
        await asyncio.wait_for(worker.run(), 5)  # there is room for it
        await second.response()
        await first.close()


async def test_a_report_that_could_not_be_stored_does_not_spoil_the_next(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.database.sqlite._BUSY_TIMEOUT_MS", 100)
    async with open_grid(tmp_path) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        worker = await grid.worker()
        [lease] = await worker.take()
        told = pb.BotSession()
        told.CopyFrom(worker.session)
        worker.finish(lease.id, re.ActionResult())
        with tables.failing(), pytest.raises(Unavailable):
            await worker.update()
        worker.session = told  # as if it had not been through yet
        worker.timeout = 1.0
        assert [held.id for held in (await worker.update()).leases] == [lease.id]
        worker.finish(lease.id, re.ActionResult())
        await worker.update()
        await stream.response()


async def test_the_leases_of_a_bot_that_falls_silent_while_the_database_fails_go_to_others(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.database.sqlite._BUSY_TIMEOUT_MS", 100)
    async with open_grid(tmp_path, bots=QUICK) as grid:
        streams = [grid.client.execute(await grid.client.upload(name)) for name in ("one", "two")]
        lost = await grid.worker("lost", capacity=2)
        await lost.take(2)
        with tables.failing():
            await asyncio.sleep(2.5)  # rounds of upkeep, all in vain
        found = await grid.worker("found")
        for _ in streams:
            await asyncio.wait_for(found.run(), 10)
        for stream in streams:
            assert "worker lost stopped answering" in (await stream.response()).message


async def test_what_the_old_process_of_a_bot_is_given_while_the_new_one_comes_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, go_on = asyncio.Event(), asyncio.Event()
    do = ActionQueue.do

    async def slow(queue: ActionQueue, errand: Errand[Any]) -> Any:
        result = await do(queue, errand)
        if "Attendance.begin" in getattr(errand, "__qualname__", ""):
            stored.set()
            await go_on.wait()
        return result

    async with open_grid(tmp_path) as grid:
        old = await grid.worker()
        poll = old.poll()
        monkeypatch.setattr(ActionQueue, "do", slow)
        new = ScriptedWorker(grid.channel)
        coming = asyncio.create_task(new.create())
        await stored.wait()
        stream = grid.client.execute(await grid.client.upload("true"))
        await asyncio.wait([poll], timeout=5)  # be it with the action, or without, or because there is a newer session
        go_on.set()
        await coming
        await asyncio.wait_for(new.run(), 5)
        assert (await stream.response()).result.exit_code == 0


async def test_a_session_that_nobody_knows_does_not_replace_a_newer_one_of_its_bot(
    tmp_path: Path, tables: Tables
) -> None:
    """BOT-03."""
    async with open_grid(tmp_path, bots={"hold_seconds": 0.1}) as grid:
        tables.execute("INSERT INTO bots (instance, bot_id, session) VALUES ('main', 'worker-1', 'main/newer')")
        for name in ("main/older", "main/newer"):
            worker = ScriptedWorker(grid.channel)
            worker.session.name, worker.session.status = name, pb.OK
            if name == "main/older":
                with pytest.raises(Aborted):
                    await worker.update()
            else:
                assert (await worker.update()).name == name


def test_a_step_of_the_wall_clock_ends_no_session() -> None:
    clock = FakeClock()
    sessions = Sessions(clock, silence_seconds=15.0)
    session = Session(BotKey("main", "bot"), SessionName("main/1"))
    sessions.begin(session)
    clock.set_back(-3600)
    assert not sessions.silent()
    clock.set_back(7200)
    clock.advance(14)
    assert not sessions.silent()
    clock.advance(2)
    assert sessions.silent() == [session]
