"""The Bots service as an unmodified buildbox-worker 1.4 sees it; each test is a trait that was traced on the wire."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from google.rpc import code_pb2

from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from tests.scheduler.grid import Grid, Stream, nothing_happens, open_grid
from tests.scheduler.scripted_worker import ScriptedWorker, action_of

#: How long before the session's expire_time the worker asks again while it is busy.
EARLY_SECONDS = 0.25


async def test_it_begins_with_an_unspecified_status_and_gets_no_lease_yet(grid: Grid) -> None:
    stream = await started(grid)
    worker = ScriptedWorker(grid.channel, ours=False)
    assert worker.session.status == pb.BOT_STATUS_UNSPECIFIED
    session = await worker.create()
    assert not session.leases
    await stream.close()


async def test_it_may_have_the_empty_instance(grid: Grid) -> None:
    worker = await grid.worker(instance="", ours=False)
    stream = await started(grid)
    [lease] = await worker.take()
    worker.finish(lease.id, re.ActionResult())
    assert (await worker.report_until(stream.response())).status.code == code_pb2.OK


async def test_its_lease_is_pending_with_the_action_in_it(grid: Grid) -> None:
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = (await worker.update()).leases
    assert lease.state == pb.PENDING
    assert action_of(lease).command_digest.hash
    instance, _, unique = lease.id.rpartition("/")
    assert instance == "main"
    assert set(unique) <= set("0123456789abcdef.")  # it stands in the name of a header
    await stream.close()


async def test_its_first_busy_reports_are_answered_at_once(grid: Grid) -> None:
    """Held, they would cost it a quarter of a second at the end of the job: 51 instead of 435 actions in 16 s."""
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    for _ in range(2):
        [held] = (await asyncio.wait_for(worker.update(), 2)).leases
        assert held.state == pb.ACTIVE  # never PENDING again: it would spin
    worker.finish(lease.id, re.ActionResult())
    poll = worker.poll()
    assert (await stream.response()).status.code == code_pb2.OK
    await more_work(grid, poll)


async def test_a_worker_that_has_nothing_left_hears_of_more_at_once(grid: Grid) -> None:
    """After each answer it rests for a quarter of a second, which an action may come in."""
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    worker.finish(lease.id, re.ActionResult())
    poll = worker.poll()
    await stream.response()
    assert await nothing_happens(poll)
    await more_work(grid, poll)


async def test_a_worker_that_has_something_left_is_answered_at_once(grid: Grid) -> None:
    """Else it would be late to notice that this has ended, too."""
    streams = [await started(grid, str(number)) for number in range(2)]
    worker = await grid.worker(ours=False, capacity=2)
    first, second = await worker.take(2)
    worker.finish(first.id, re.ActionResult())
    assert [lease.id for lease in (await asyncio.wait_for(worker.update(), 2)).leases] == [second.id]
    for stream in streams:
        await stream.close()


async def more_work(grid: Grid, poll: asyncio.Task[pb.BotSession]) -> None:
    """See that the poll is answered when there is something to do."""
    stream = await started(grid, "more")
    assert [lease.state for lease in (await asyncio.wait_for(poll, 2)).leases] == [pb.PENDING]
    await stream.close()


async def test_a_completed_lease_is_answered_with_the_next_pending_one(grid: Grid) -> None:
    streams = [await started(grid, str(number)) for number in range(2)]
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    await worker.update()
    worker.finish(lease.id, re.ActionResult())
    [following] = (await worker.update()).leases
    assert following.id != lease.id
    assert following.state == pb.PENDING
    for stream in streams:
        await stream.close()


async def test_two_leases_at_once_are_reported_one_by_one(grid: Grid) -> None:
    streams = [await started(grid, str(number)) for number in range(2)]
    worker = await grid.worker(ours=False, capacity=2)
    first, second = await worker.take(2)
    await worker.update()
    worker.finish(first.id, re.ActionResult())
    await worker.update()
    worker.finish(second.id, re.ActionResult())
    for stream in streams:
        assert (await worker.report_until(stream.response())).status.code == code_pb2.OK


async def test_a_cancellation_reaches_it_within_a_second(grid: Grid) -> None:
    """It looks at its leases at the expire_time less a quarter of a second, so that must always be near."""
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    await worker.take()
    await worker.update()
    answer = await worker.update()
    asks_again_in = until_expiry(answer) - EARLY_SECONDS
    assert 0 < asks_again_in < 0.74
    await grid.client.cancel(stream.name)
    answer = await worker.update()
    assert not answer.leases
    assert 0 < until_expiry(answer) - EARLY_SECONDS < 0.1  # then it looks again, and kills the job
    assert (await stream.response()).status.code == code_pb2.CANCELLED


async def test_a_long_job_is_held_and_a_cancellation_answers_the_poll(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.servicers.bots._YOUNG_SECONDS", 0.0)
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    await worker.take()
    poll = worker.poll()
    while not await nothing_happens(poll):  # the first reports are answered at once
        poll = worker.poll()
    await grid.client.cancel(stream.name)
    answer = await poll
    assert not answer.leases
    assert 0 < until_expiry(answer) - EARLY_SECONDS < 0.1
    await stream.close()


async def test_a_cancelled_lease_that_it_repeats_is_absent(grid: Grid) -> None:
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    await grid.client.cancel(stream.name)
    worker.session.leases[0].state = pb.CANCELLED
    worker.session.leases[0].status.code = code_pb2.CANCELLED
    assert lease.id not in {held.id for held in (await worker.update()).leases}
    await stream.close()


async def test_the_heartbeat_is_well_below_what_ends_a_session(tmp_path: Path) -> None:
    async with open_grid(tmp_path, bots={"heartbeat_seconds": 5, "silence_seconds": 15, "hold_seconds": 0.1}) as grid:
        worker = await grid.worker(ours=False)
        answer = await worker.update()
        assert 4 < until_expiry(answer) < 5.5  # the clock may be the database's


async def test_a_job_goes_on_through_a_restart_that_keeps_the_state(tmp_path: Path) -> None:
    async with open_grid(tmp_path) as grid:
        stream = await started(grid)
        name = stream.name
        worker = await grid.worker(ours=False)
        [lease] = await worker.take()
        await worker.update()
        await stream.close()
    async with open_grid(tmp_path, cas=grid.cas, cache=grid.cache) as grid:
        worker = moved(worker, grid)
        [held] = (await worker.update()).leases
        assert held.id == lease.id
        assert held.state == pb.ACTIVE
        worker.finish(lease.id, re.ActionResult(stdout_raw=b"through"))
        assert (await worker.report_until(grid.client.wait(name).response())).result.stdout_raw == b"through"


async def test_a_restart_that_loses_the_state_takes_the_session_in_and_drops_the_job(tmp_path: Path) -> None:
    async with open_grid(tmp_path) as grid:
        await started(grid)
        worker = await grid.worker(ours=False)
        await worker.take()
        await worker.update()
    (tmp_path / "elsewhere").mkdir()
    async with open_grid(tmp_path / "elsewhere", cas=grid.cas, cache=grid.cache) as grid:
        worker = moved(worker, grid)
        name = worker.session.name
        answer = await worker.update()
        assert not answer.leases
        assert answer.name == name
        stream = await started(grid, "new")
        [lease] = await worker.take()
        worker.finish(lease.id, re.ActionResult())
        assert (await worker.report_until(stream.response())).status.code == code_pb2.OK


async def test_an_idle_one_that_leaves_is_answered_at_once(grid: Grid) -> None:
    worker = await grid.worker(ours=False)
    worker.session.status = pb.BOT_TERMINATING
    await asyncio.wait_for(worker.update(), 2)


async def test_a_busy_one_that_leaves_may_finish(grid: Grid) -> None:
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    worker.session.status = pb.BOT_TERMINATING
    assert len((await asyncio.wait_for(worker.update(), 2)).leases) == 1
    worker.finish(lease.id, re.ActionResult())
    await asyncio.wait_for(worker.update(), 2)
    assert (await stream.response()).status.code == code_pb2.OK


async def test_a_missing_binary_is_the_users_affair(grid: Grid) -> None:
    """ERR-12."""
    stream = await started(grid)
    worker = await grid.worker(ours=False)
    [lease] = await worker.take()
    worker.finish(lease.id, re.ActionResult(exit_code=127), code_pb2.NOT_FOUND, "Unable to execute [nope]")
    response = await worker.report_until(stream.response())
    assert response.status.code == code_pb2.OK
    assert response.result.exit_code == 127
    assert not grid.cache.results


async def test_it_gets_no_action_that_it_does_not_understand(tmp_path: Path) -> None:
    """Legacy output fields produce nothing there, and digests of another function cannot be checked."""
    async with open_grid(tmp_path) as grid:
        legacy = grid.client.execute(
            await grid.client.upload(command=re.Command(arguments=["x"], output_files=["out"]))
        )
        blake3 = grid.client.execute(await grid.client.upload("true", function=DigestFunction.BLAKE3))
        await legacy.next()
        await blake3.next()
        stock = await grid.worker("stock", ours=False)
        poll = stock.poll()
        assert await nothing_happens(poll)
        ours = await grid.worker("ours", capacity=2)
        assert len((await ours.update()).leases) >= 1
        poll.cancel()
        for stream in (legacy, blake3):
            await stream.close()


async def test_two_hundred_jobs_in_a_row_flow(grid: Grid) -> None:
    worker = await grid.worker(ours=False)

    async def work() -> None:
        while True:
            for lease in await worker.take():
                await worker.update()
                worker.finish(lease.id, re.ActionResult())

    working = asyncio.create_task(work())
    for number in range(200):
        stream = grid.client.execute(await grid.client.upload("true", str(number)))
        assert (await stream.response()).status.code == code_pb2.OK
    working.cancel()


def moved(worker: ScriptedWorker, grid: Grid) -> ScriptedWorker:
    """Return the same worker, talking to *grid*."""
    again = ScriptedWorker(grid.channel, worker.session.bot_id, ours=worker.timeout is not None)
    again.session = worker.session
    return again


def until_expiry(session: pb.BotSession) -> float:
    """Return how many seconds are left until the session's expire_time."""
    return session.expire_time.ToNanoseconds() / 1e9 - time.time()


async def started(grid: Grid, *arguments: str) -> Stream:
    """Execute a command; return its stream, of which one message was read."""
    stream = grid.client.execute(await grid.client.upload("true", *arguments))
    await stream.next()
    return stream
