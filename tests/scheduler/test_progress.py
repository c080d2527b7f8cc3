"""How far bots are with what they run: shown at once where they say it, and stored for all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.longrunning import operations_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.testing.clock import FakeClock
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.progress import store_progress
from gridwright_scheduler.database.turns import Turns
from gridwright_scheduler.progress_notes import ProgressNotes
from gridwright_scheduler.queue.names import LeaseId, OperationName
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.session import HeldLease
from tests.scheduler.bare_queue import BareQueue, idle, request
from tests.scheduler.databases import Tables, database_in
from tests.scheduler.grid import Grid, Stream, metadata_of
from tests.scheduler.scripted_worker import ScriptedWorker


@pytest.fixture
async def queue(tmp_path: Path, one_replica: None) -> AsyncIterator[BareQueue]:
    async with open_database(database_in(tmp_path)) as database:
        yield BareQueue(database)


@pytest.fixture
def stored_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lease is too young, and who watches it elsewhere depends on notices."""
    monkeypatch.setattr("gridwright_scheduler.progress_notes._YOUNG_SECONDS", 0.0)
    monkeypatch.setattr("gridwright_scheduler.upkeep._ROUND_SECONDS", 0.05)
    monkeypatch.setattr("gridwright_scheduler.looks.EVERY_SECONDS", 300.0)


async def test_it_is_seen_by_whoever_asks_later_or_elsewhere(stored_soon: None, grid: Grid) -> None:
    """BOT-25, EMD-04."""
    digest = await grid.client.upload("true")
    streams = [grid.client_of(replica).execute(digest) for replica in range(len(grid.channels))]
    names = [(await stream.next()).name for stream in streams]
    worker = await grid.worker()
    [lease] = await worker.take()
    for seconds in (1, 2):
        poll = told(worker, lease.id, seconds)
        for stream in streams:
            await asyncio.wait_for(shown(stream, seconds), 5)
        async with asyncio.timeout(5):
            while began_at(await grid.client.get(names[0])) != seconds:  # noqa: ASYNC110  # a look at the tables
                await asyncio.sleep(0.02)
        later = grid.client.wait(names[0])
        await asyncio.wait_for(shown(later, seconds), 5)
        await later.close()
        poll.cancel()
    for stream in streams:
        assert [began_at(message) for message in stream.seen if began_at(message)] == [1, 2]
        await stream.close()


async def test_it_is_stored_once_while_the_lease_goes_on_and_forgotten_with_the_next(
    queue: BareQueue, tables: Tables
) -> None:
    await queue.admit(request("a"))
    [old] = await queue.give(idle("one"))
    stored = await queue.database.write(lambda connection: store_progress(connection, {old.lease_id: b"far"}))
    assert stored == ({old.lease_id: old.version + 1}, [])
    again = await queue.database.write(lambda connection: store_progress(connection, {old.lease_id: b"far"}))
    assert again == ({}, [old.lease_id])
    assert await queue.settle(old, Retry("lost", counted=False))
    late = await queue.database.write(lambda connection: store_progress(connection, {old.lease_id: b"further"}))
    assert late == ({}, [old.lease_id])
    [current] = await queue.give(idle("two"))
    assert tables.execute("SELECT count(*) FROM actions WHERE progress IS NOT NULL") == [("0",)]
    forged = LeaseId(f"{current.lease_id.rpartition('.')[0]}.1")
    late = await queue.database.write(
        lambda connection: store_progress(connection, {old.lease_id: b"further", forged: b"further"})
    )
    assert late == ({}, [old.lease_id, forged])


async def test_of_short_work_nothing_is_stored_and_of_the_rest_the_latest(queue: BareQueue, tables: Tables) -> None:
    clock = FakeClock(now=queue.now)
    turns = Turns(queue.database)
    board = Board()
    notes = ProgressNotes(turns, board, clock)
    await queue.admit(request("short"), request("long"))
    held = [HeldLease(leased) for leased in await queue.give(idle("bot", 2))]
    running = asyncio.create_task(turns.run())
    with board.watch(OperationName("main/long")) as watch:
        board.bind(watch.operation, held[1].leased.snapshot())
        for number in range(3):
            for one in held:
                one.progress = b"%d" % number
                notes.note(one)
            await notes.store()
            clock.advance(0.4)
        assert tables.execute("SELECT count(*) FROM actions WHERE progress IS NOT NULL") == [("0",)]
        held[0].settling = asyncio.get_running_loop().create_future()
        await notes.store()
        assert stored_in(tables) == [("long", b"2")]
        assert watch.snapshot == replace(held[1].leased.snapshot(), progress=b"2")
        held[1].progress = b"3"
        notes.note(held[1])
        assert watch.snapshot.progress == b"3"
        await notes.store()
        assert stored_in(tables) == [("long", b"3")]
    running.cancel()


def told(worker: ScriptedWorker, lease_id: str, seconds: int) -> asyncio.Task[bots_pb2.BotSession]:
    """Have *worker* tell that the action began *seconds* after the epoch."""
    progress = re.ExecutedActionMetadata(worker="worker-1", execution_start_timestamp={"seconds": seconds})
    key = f"partial-execution-metadata-{lease_id.rpartition('/')[2]}-bin"
    return worker.poll([(key, progress.SerializeToString())])


async def shown(stream: Stream, seconds: int) -> None:
    """Read *stream* until it shows that the action began then."""
    while began_at(await stream.next()) != seconds:
        pass


def began_at(operation: operations_pb2.Operation) -> int:
    return metadata_of(operation).partial_execution_metadata.execution_start_timestamp.seconds


def stored_in(tables: Tables) -> list[tuple[str, bytes]]:
    rows = tables.execute("SELECT id, progress FROM actions WHERE progress IS NOT NULL")
    return [(name, bytes.fromhex(progress.removeprefix("\\x"))) for name, progress in rows]
