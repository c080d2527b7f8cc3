"""What becomes of operations that nobody is interested in any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.postgres import PostgresServer
from tests.scheduler.databases import Tables
from tests.scheduler.grid import Grid, Stream, open_grid, response_of

PATIENCE_SECONDS = 0.6
#: Longer than any test.
NEVER_MIND_SECONDS = 3600.0


@pytest.fixture
async def hasty(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Grid]:
    """A scheduler that soon gives up what nobody wants."""
    async with open_grid(tmp_path, abandon_after_seconds=PATIENCE_SECONDS) as grid:
        yield grid


async def test_an_action_that_nobody_waits_for_is_taken_from_its_worker(hasty: Grid) -> None:
    stream = await started(hasty, "sleep")
    worker = await hasty.worker()
    await worker.take()
    poll = worker.poll()
    await stream.close()
    assert not (await poll).leases
    response = response_of(await hasty.client.get(stream.name))
    assert response.status.code == code_pb2.CANCELLED


async def test_an_action_that_nobody_waits_for_never_starts(hasty: Grid) -> None:
    stream = await started(hasty, "true")
    await stream.close()
    await another_was_abandoned(hasty)
    assert response_of(await hasty.client.get(stream.name)).status.code == code_pb2.CANCELLED


async def test_an_open_stream_keeps_its_operation(hasty: Grid) -> None:
    stream = await started(hasty, "sleep")
    await another_was_abandoned(hasty)
    assert not (await hasty.client.get(stream.name)).done


async def test_a_stream_that_waits_keeps_the_operation_of_a_stream_that_is_gone(hasty: Grid) -> None:
    stream = await started(hasty, "sleep")
    await stream.close()
    waiting = hasty.client.wait(stream.name)
    await waiting.next()
    await another_was_abandoned(hasty)
    assert not (await hasty.client.get(stream.name)).done
    await waiting.close()


async def test_who_asks_for_an_operation_now_and_then_keeps_it(hasty: Grid) -> None:
    stream = await started(hasty, "sleep")
    await stream.close()
    abandoned = asyncio.create_task(another_was_abandoned(hasty))
    while not abandoned.done():
        assert not (await hasty.client.get(stream.name)).done
        await asyncio.wait({abandoned}, timeout=PATIENCE_SECONDS / 6)
    await abandoned


async def test_who_waits_for_an_operation_by_its_name_keeps_it(hasty: Grid) -> None:
    stream = await started(hasty, "sleep")
    await stream.close()
    request = operations_pb2.WaitOperationRequest(name=stream.name)
    waiting = asyncio.create_task(hasty.client.operations.wait_operation(request, timeout=60))
    await another_was_abandoned(hasty)
    assert not waiting.done()
    waiting.cancel()


async def test_an_operation_goes_alone_when_another_waits_for_the_same_action(hasty: Grid) -> None:
    lonely, attended = await started(hasty, "sleep"), await started(hasty, "sleep")
    await lonely.close()
    await another_was_abandoned(hasty)
    assert response_of(await hasty.client.get(lonely.name)).status.code == code_pb2.CANCELLED
    assert not (await hasty.client.get(attended.name)).done
    worker = await hasty.worker()
    await worker.run(pb.ActionResult(stdout_raw=b"for the other"))
    assert (await attended.response()).result.stdout_raw == b"for the other"


async def test_after_a_restart_clients_have_as_long_to_come_back(tmp_path: Path, tables: Tables) -> None:
    async with open_grid(tmp_path, abandon_after_seconds=NEVER_MIND_SECONDS) as grid:
        name = (await started(grid, "sleep")).name
        forsaken = (await started(grid, "forsaken")).name
        worker = await grid.worker(capacity=2)
        await worker.take(2)
    tables.execute("UPDATE operations SET created_at = created_at - 86400, attended_at = 0")
    began = time.monotonic()
    async with open_grid(tmp_path, abandon_after_seconds=PATIENCE_SECONDS) as grid:
        waiting = grid.client.wait(name)
        await waiting.next()
        worker.use(grid.channel)
        while len((await worker.update()).leases) == 2:
            pass
        assert time.monotonic() - began >= PATIENCE_SECONDS
        assert not (await grid.client.get(name)).done
        assert (await grid.client.get(forsaken)).done


async def test_while_the_database_is_away_nobody_loses_patience(hasty: Grid, tables: Tables) -> None:
    stream = await started(hasty, "sleep")
    with tables.failing():
        await asyncio.sleep(3 * PATIENCE_SECONDS)
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                await another_was_abandoned(hasty)
                break
    assert not (await hasty.client.get(stream.name)).done


async def test_nothing_is_abandoned_where_that_is_switched_off(tmp_path: Path, tables: Tables) -> None:
    async with open_grid(tmp_path, abandon_after_seconds=0) as grid:
        stream = await started(grid, "sleep")
        await stream.close()
        tables.execute("UPDATE operations SET created_at = created_at - 86400")
        worker = await grid.worker()
        await worker.run(pb.ActionResult(stdout_raw=b"late"))
        assert (await grid.client.wait(stream.name).response()).result.stdout_raw == b"late"


async def started(grid: Grid, *arguments: str) -> Stream:
    """Execute *arguments* where the first worker is; return when the operation is there."""
    stream = grid.client.execute(await grid.client.upload(*arguments, properties={"OSFamily": "linux"}))
    await stream.next()
    return stream


async def another_was_abandoned(grid: Grid) -> None:
    """Return when an operation that began now, and that nobody waits for, is given up; older ones are before that."""
    client = grid.client
    worker = await grid.worker("the other", properties=(("OSFamily", "other"),))
    stream = client.execute(await client.upload("other", properties={"OSFamily": "other"}))
    await stream.next()
    await worker.take()
    poll = worker.poll()
    await stream.close()
    while (await poll).leases:
        poll = worker.poll()
