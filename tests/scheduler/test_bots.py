"""The Bots service, as workers of ours see it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2

from gridwright.digest import DigestFunction
from gridwright.errors import Aborted, InvalidRequest, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import BotsClient
from tests.scheduler.databases import replicas_in
from tests.scheduler.grid import Grid, Stream, metadata_of, nothing_happens, open_grid
from tests.scheduler.scripted_worker import ScriptedWorker

STAGE = re.ExecutionStage


async def test_a_session_gets_a_name_in_its_instance_and_time(grid: Grid) -> None:
    """BOT-01, BOT-26."""
    for instance in ("main", "other/one"):
        worker = ScriptedWorker(grid.channel, instance=instance)
        worker.session.version = "7"
        session = await worker.create()
        assert session.name.startswith(f"{instance}/")
        assert session.expire_time.seconds >= int(time.time())
        assert session.version == "7"
        assert session.bot_id == "worker-1"


@pytest.mark.parametrize(
    ("instance", "bot_id", "capacity"),
    [
        ("nowhere", "bot", "1"),
        ("main", "", "1"),
        ("main", "b" * 300, "1"),
        ("main", "b", "x"),
        ("main", "b", "0"),
        ("main", "b", "９"),
        ("main", "b", "1" * 5000),
    ],
)
async def test_a_bot_that_makes_no_sense_is_not_let_in(grid: Grid, instance: str, bot_id: str, capacity: str) -> None:
    """BOT-02."""
    worker = ScriptedWorker(grid.channel, bot_id, instance=instance)
    worker.session.worker.configs[0].value = capacity
    with pytest.raises(InvalidRequest):
        await worker.create()


async def test_names_that_differ_are_refused(grid: Grid) -> None:
    """BOT-05."""
    worker = await grid.worker()
    request = pb.UpdateBotSessionRequest(name="main/other", bot_session=worker.session)
    with pytest.raises(InvalidRequest):
        await BotsClient(grid.channel).update_bot_session(request, timeout=5.0)


async def test_a_newer_session_of_a_bot_ends_the_older_and_its_leases_go_to_others(grid: Grid) -> None:
    """BOT-03, BOT-04."""
    stream = await started(grid)
    old = await grid.worker()
    await old.take()
    await stream.until(re.ExecutionStage.EXECUTING)  # streams show the latest state, not every one
    new = await grid.worker()
    with pytest.raises(Aborted):
        await old.update()
    await stream.until(re.ExecutionStage.QUEUED)
    [lease] = await new.take()
    await stream.until(re.ExecutionStage.EXECUTING)
    new.finish(lease.id, re.ActionResult(stdout_raw=b"anew"))
    await new.update()
    response = await stream.response()
    assert response.result.stdout_raw == b"anew"
    assert stream.stages == ["QUEUED", "EXECUTING", "QUEUED", "EXECUTING", "COMPLETED"]  # EXE-09
    assert "worker-1 started anew" in response.message


async def test_an_idle_poll_is_held_and_ends_when_work_comes(grid: Grid) -> None:
    """BOT-17, BOT-23."""
    worker = await grid.worker(properties=[("rack", "7"), ("_x", "1")])
    poll = worker.poll()
    assert await nothing_happens(poll)
    stream = grid.client.execute(await grid.client.upload("true", properties={"rack": "7"}))
    assert [lease.state for lease in (await poll).leases] == [pb.PENDING]
    await stream.close()


async def test_an_idle_poll_returns_well_before_its_deadline(grid: Grid) -> None:
    """BOT-17, BOT-18."""
    worker = await grid.worker()
    worker.timeout = 1.0
    started_at = time.monotonic()
    assert not (await worker.update()).leases
    assert 0.5 < time.monotonic() - started_at < 1.0


async def test_a_finished_lease_is_answered_with_the_next_one(grid: Grid) -> None:
    """BOT-15, BOT-16: and is absent, and no result is echoed."""
    streams = [await started(grid, str(number)) for number in range(3)]
    worker = await grid.worker()
    done: list[str] = []
    [lease] = await worker.take()
    for _ in streams:
        done.append(lease.id)
        worker.finish(lease.id, re.ActionResult())
        await worker.update()
        assert not set(done) & set(worker.states())
        if len(done) < len(streams):
            [lease] = worker.session.leases
            assert lease.state == pb.PENDING
            assert not lease.HasField("result")
    for stream in streams:
        await stream.response()


async def test_a_worker_gets_as_many_leases_as_it_has_room_for(grid: Grid) -> None:
    """BOT-21."""
    streams = [await started(grid, str(number)) for number in range(6)]
    worker = await grid.worker(capacity=4)
    leases = await worker.take(4)
    assert len(worker.session.leases) == 4
    assert len(worker.lease_metadata) == 4
    poll = worker.poll()
    assert await nothing_happens(poll)
    poll.cancel()
    worker.finish(leases[0].id, re.ActionResult())
    await worker.update()
    assert sorted(worker.states().values()) == [pb.PENDING, pb.ACTIVE, pb.ACTIVE, pb.ACTIVE]
    for stream in streams:
        await stream.close()


async def test_every_lease_is_offered_with_its_digest_function(grid: Grid) -> None:
    """So many trailers as leases would not pass; those of leases that run already are not needed."""
    digests = [await grid.client.upload(str(number), function=DigestFunction.BLAKE3) for number in range(60)]
    streams = [grid.client.execute(digest) for digest in digests]
    for stream in streams:
        await stream.next()
    worker = await grid.worker(capacity=64)
    offered: set[str] = set()
    while len(offered) < len(digests):
        await asyncio.wait_for(worker.update(), 3)  # not held while there are more
        pending = [lease for lease in worker.session.leases if lease.state == pb.PENDING]
        assert len(pending) <= 40
        hashes = {DigestFunction.BLAKE3.digest(lease.payload.value).hash for lease in pending}
        assert {one.digest_function for one in worker.lease_metadata.values()} == {re.DigestFunction.BLAKE3}
        assert worker.lease_metadata.keys() == hashes
        offered |= hashes
        for lease in pending:
            lease.state = pb.ACTIVE
    assert offered == {digest.hash for digest in digests}
    assert len(worker.session.leases) == len(digests)
    for stream in streams:
        await stream.close()


@pytest.mark.parametrize("ours", [True, False])
async def test_a_worker_of_ours_is_told_a_payload_once_and_a_stock_worker_every_time(grid: Grid, ours: bool) -> None:
    stream = await started(grid)
    worker = await grid.worker(ours=ours)
    [lease] = await worker.take()
    assert lease.HasField("payload")
    more = await started(grid, "more")  # the poll of a worker of ours is held otherwise
    worker.session.worker.configs[0].value = "2"
    await worker.update()
    [told] = [one for one in worker.session.leases if one.id == lease.id]
    assert (told.state, told.HasField("payload")) == (pb.ACTIVE, not ours)
    await stream.close()
    await more.close()


async def test_a_lease_whose_answer_was_lost_is_offered_again(grid: Grid) -> None:
    """BOT-13."""
    stream = await started(grid)
    worker = await grid.worker()
    [lost] = (await worker.update()).leases
    del worker.session.leases[:]
    [again] = (await worker.update()).leases
    assert again.id == lost.id
    assert again.state == pb.PENDING
    await stream.close()


@pytest.mark.parametrize("offering_seconds", [0.0, 30.0])
async def test_a_lease_that_a_worker_never_takes_goes_to_another(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offering_seconds: float
) -> None:
    """Schedulers that the worker goes to and fro between do not know how often others have offered it."""
    if offering_seconds and replicas_in(tmp_path) > 1:
        return
    monkeypatch.setattr("gridwright_scheduler.session._OFFERING_SECONDS", offering_seconds)
    stream = await started(grid)
    worker = await grid.worker("stubborn")
    first = None
    for _ in range(5):
        leases = (await worker.update()).leases
        first = first or leases[0].id
        if leases[0].id != first:
            break
        del worker.session.leases[:]
    else:
        pytest.fail("offered for ever")
    await stream.close()


async def test_a_lease_that_is_not_the_bots_is_dropped(grid: Grid) -> None:
    """BOT-11, BOT-14, BOT-30."""
    worker = await grid.worker()
    worker.session.leases.add(id="main/unknown", state=pb.ACTIVE)
    worker.session.leases.add(id="main/finished-twice", state=pb.COMPLETED)
    assert not (await worker.update()).leases


async def test_a_completion_that_is_told_twice_counts_once(grid: Grid) -> None:
    """BOT-12, BOT-14."""
    stream = await started(grid)
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.finish(lease.id, re.ActionResult(stdout_raw=b"first"))
    told = pb.BotSession()
    told.CopyFrom(worker.session)
    await worker.update()
    worker.session = told
    worker.session.leases[0].result.Clear()
    assert not (await worker.update()).leases
    worker.session.leases.add(id=lease.id, state=pb.ACTIVE)
    assert not (await worker.update()).leases
    assert (await stream.response()).result.stdout_raw == b"first"


async def test_bots_that_many_actions_pass_through_have_room_for_each_and_run_it_once(grid: Grid) -> None:
    """BOT-08, BOT-21: also where each call goes to another scheduler."""
    actions, capacity = 100, 4
    digests = [await grid.client.upload("true", str(number)) for number in range(actions)]
    streams = [grid.client.execute(digest) for digest in digests]
    ran: list[str] = []

    async def work(worker: ScriptedWorker) -> None:
        begun: set[str] = set()
        while True:
            leases = (await worker.update()).leases
            assert len(leases) <= capacity
            for lease in leases:
                assert lease.id not in begun or lease.state == pb.ACTIVE
                if lease.id in begun:
                    ran.append(lease.id)
                    worker.finish(lease.id, re.ActionResult())
                begun.add(lease.id)
                lease.state = max(lease.state, pb.ACTIVE)

    workers = [await grid.worker(name, capacity=capacity, ours=False) for name in ("one", "two")]
    working = [asyncio.create_task(work(worker)) for worker in workers]
    for stream in streams:
        assert (await stream.response()).result.exit_code == 0
    for task in working:
        assert not task.done()
        task.cancel()
    assert len(ran) == len(set(ran)) == actions


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), KeyError("x"), MemoryError(), TimeoutError()])
async def test_whatever_goes_wrong_here_is_unavailable(
    tmp_path: Path, one_replica: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Any other code would make a stock worker kill its jobs and exit."""
    async with open_grid(tmp_path, bots={"hold_seconds": 0.1}) as grid:
        worker = await grid.worker()

        def fail(*_: object, **__: object) -> None:
            raise error

        for place in (
            "lease_reports.LeaseReports.take",
            "attendance.Attendance.attend",
            "servicers.bots.BotsServicer._answer",
            "servicers.bots._described",
        ):
            with monkeypatch.context() as patch:
                patch.setattr(f"gridwright_scheduler.{place}", fail)
                with pytest.raises(Unavailable):
                    await worker.update()
        with monkeypatch.context() as patch:
            patch.setattr("gridwright_scheduler.attendance.Attendance.begin", fail)
            with pytest.raises(Unavailable):
                await ScriptedWorker(grid.channel, "other").create()
        stream = await started(grid)
        await worker.run()
        assert (await stream.response()).status.code == code_pb2.OK


@pytest.mark.parametrize("status", [pb.UNHEALTHY, pb.HOST_REBOOTING, pb.BOT_TERMINATING, pb.INITIALIZING])
async def test_only_a_bot_that_is_well_gets_work_and_the_others_are_answered_at_once(
    grid: Grid, status: pb.BotStatus
) -> None:
    """BOT-07."""
    worker = await grid.worker()
    stream = await started(grid)
    worker.session.status = status
    assert not (await asyncio.wait_for(worker.update(), 3)).leases
    other = await grid.worker("well")
    await other.run()
    await stream.response()


async def test_a_bot_that_becomes_ill_keeps_what_it_runs_and_hands_back_what_it_did_not_begin(grid: Grid) -> None:
    streams = [await started(grid, str(number)) for number in range(2)]
    worker = await grid.worker(capacity=2)
    await worker.update()
    running, waiting = worker.session.leases
    running.state = pb.ACTIVE
    worker.session.status = pb.UNHEALTHY
    answer = await worker.update()
    assert [lease.id for lease in answer.leases] == [running.id]
    other = await grid.worker("well")
    [lease] = await other.take()
    assert lease.payload == waiting.payload
    for stream in streams:
        await stream.close()


async def test_a_terminating_bot_finishes_and_then_is_forgotten(grid: Grid) -> None:
    stream = await started(grid)
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.session.status = pb.BOT_TERMINATING
    assert [held.id for held in (await worker.update()).leases] == [lease.id]
    worker.finish(lease.id, re.ActionResult(stdout_raw=b"to the end"))
    assert not (await worker.update()).leases
    assert (await stream.response()).result.stdout_raw == b"to the end"
    new = await grid.worker()
    assert new.session.name != worker.session.name


async def test_what_a_terminating_bot_gives_back_costs_no_attempt(tmp_path: Path) -> None:
    async with open_grid(tmp_path, max_attempts=1) as grid:
        stream = await started(grid)
        worker = await grid.worker()
        [lease] = await worker.take()
        worker.session.status = pb.BOT_TERMINATING
        worker.finish(lease.id, None, code_pb2.UNAVAILABLE, "Worker is shutting down")
        await worker.update()
        other = await grid.worker("other")
        await other.run()
        assert (await stream.response()).status.code == code_pb2.OK


async def test_the_work_of_a_bot_that_falls_silent_is_done_by_another(tmp_path: Path) -> None:
    """BOT-19, ERR-13."""
    async with open_grid(tmp_path, bots={"silence_seconds": 0.5, "heartbeat_seconds": 0.1}) as grid:
        stream = await started(grid)
        behind = await started(grid, "behind")
        lost = await grid.worker("lost")
        await lost.take()
        await stream.until(STAGE.EXECUTING)
        assert metadata_of(await stream.until(STAGE.QUEUED)).partial_execution_metadata.worker == ""
        worker = await grid.worker("found")
        await worker.run(re.ActionResult(stdout_raw=b"found"))  # the lost action comes before the one behind it
        response = await stream.response()
        assert response.result.stdout_raw == b"found"
        assert "worker lost stopped answering" in response.message
        await behind.close()


async def test_a_bot_that_comes_back_after_its_time_is_taken_in_without_what_it_lost(tmp_path: Path) -> None:
    async with open_grid(tmp_path, bots={"silence_seconds": 0.3, "heartbeat_seconds": 0.09}) as grid:
        stream = await started(grid)
        worker = await grid.worker()
        await worker.take()
        await stream.until(STAGE.EXECUTING)
        await stream.until(STAGE.QUEUED)
        old = set(worker.states())
        answer = await worker.update()
        assert not old & {lease.id for lease in answer.leases}
        await worker.run()
        assert (await stream.response()).status.code == code_pb2.OK


async def test_an_action_waits_a_while_for_another_bot_than_the_one_that_failed_it(tmp_path: Path) -> None:
    async with open_grid(tmp_path, avoid_failed_worker_seconds=60) as grid:
        stream, behind = await started(grid), await started(grid, "behind")
        failing = await grid.worker("failing")
        await fail(failing)
        await failing.run(re.ActionResult(stdout_raw=b"behind"))
        assert (await behind.response()).result.stdout_raw == b"behind"
        poll = failing.poll()
        assert await nothing_happens(poll)
        other = await grid.worker("other")
        await other.run()
        response = await stream.response()
        assert response.result.execution_metadata.worker == "other"
        assert "worker failing reported INTERNAL" in response.message
        poll.cancel()


async def test_when_there_is_no_other_bot_the_one_that_failed_an_action_gets_it_again(tmp_path: Path) -> None:
    async with open_grid(tmp_path, avoid_failed_worker_seconds=0.5) as grid:
        stream = await started(grid)
        worker = await grid.worker()
        await fail(worker)
        await worker.run()
        assert (await stream.response()).status.code == code_pb2.OK


async def test_an_action_that_is_to_be_tried_once_is(grid: Grid) -> None:
    digest = await grid.client.upload("true", properties={"retry": "never"})
    stream = grid.client.execute(digest)
    await fail(await grid.worker())
    response = await stream.response()
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    assert "retry=never asks: worker worker-1 reported INTERNAL: disk full" in response.status.message


async def fail(worker: ScriptedWorker) -> None:
    """Take an action, and report a fault of the worker."""
    [lease] = await worker.take()
    worker.finish(lease.id, None, code_pb2.INTERNAL, "disk full")
    await worker.update()


async def test_an_action_that_is_tried_too_often_ends_with_the_names_of_those_who_failed(tmp_path: Path) -> None:
    """ERR-13."""
    async with open_grid(tmp_path, max_attempts=2) as grid:
        stream = await started(grid)
        for name in ("one", "two"):
            worker = await grid.worker(name)
            [lease] = await worker.take()
            worker.finish(lease.id, None, code_pb2.INTERNAL, "disk full")
            worker.session.status = pb.UNHEALTHY
            await worker.update()
        response = await stream.response()
        assert response.status.code == code_pb2.UNAVAILABLE
        assert "worker one" in response.status.message
        assert "worker two reported INTERNAL: disk full" in response.status.message


@pytest.mark.parametrize(
    "output",
    [
        {"path": "o", "digest": {"hash": "zz", "size_bytes": -5}},
        {"path": "/etc/passwd", "digest": {"hash": "a" * 64, "size_bytes": 1}},
    ],
)
async def test_a_result_that_makes_no_sense_is_not_delivered(tmp_path: Path, output: dict[str, Any]) -> None:
    """DIG-12: no client could make use of it."""
    async with open_grid(tmp_path, max_attempts=2) as grid:
        stream = await started(grid)
        broken = await grid.worker("broken")
        await broken.run(re.ActionResult(output_files=[output]))
        good = await grid.worker("good")
        broken.session.status = pb.UNHEALTHY
        await broken.update()
        await good.run(re.ActionResult(exit_code=3))
        response = await stream.response()
        assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 3)


async def test_a_result_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    async with open_grid(tmp_path, max_attempts=1) as grid:
        stream = await started(grid)
        worker = await grid.worker()
        [lease] = await worker.take()
        worker.finish(lease.id, re.ActionResult())
        lease.result.value = b"\xff"
        await worker.update()
        assert "a result that cannot be read" in (await stream.response()).status.message


async def test_a_lease_that_lasts_too_long_is_taken_away(tmp_path: Path) -> None:
    """POL-05: an action without a timeout has the server's."""
    async with open_grid(tmp_path, max_execution_seconds=0.3, lease_grace_seconds=0.2) as grid:
        stream = await started(grid)
        worker = await grid.worker()
        await worker.take()
        assert not (await worker.update()).leases
        assert (await stream.response()).status.code == code_pb2.DEADLINE_EXCEEDED


async def test_a_worker_that_lets_a_timeout_pass_loses_the_action_to_another(tmp_path: Path) -> None:
    async with open_grid(tmp_path, lease_grace_seconds=0.2) as grid:
        digest = await grid.client.upload("sleep", timeout={"nanos": 200_000_000})
        stream = grid.client.execute(digest)
        worker = await grid.worker("stuck")
        await worker.take()
        [old] = worker.states()
        answer = await worker.update()
        assert old not in {lease.id for lease in answer.leases}
        await stream.close()


async def test_progress_is_shown_while_the_action_runs(grid: Grid) -> None:
    """BOT-25, EMD-04."""
    stream = await started(grid)
    worker = await grid.worker()
    [lease] = await worker.take()
    progress = re.ExecutedActionMetadata(worker="worker-1", execution_start_timestamp={"seconds": 12345})
    key = f"partial-execution-metadata-{lease.id.rpartition('/')[2]}-bin"
    poll = worker.poll([(key, progress.SerializeToString())])
    while metadata_of(await stream.next()).partial_execution_metadata.execution_start_timestamp.seconds != 12345:
        pass
    poll.cancel()
    await stream.close()


async def test_a_worker_of_ours_is_not_disturbed_while_it_works(grid: Grid) -> None:
    stream = await started(grid)
    worker = await grid.worker()
    await worker.take()
    poll = worker.poll()
    assert await nothing_happens(poll)
    poll.cancel()
    await stream.close()


async def test_a_worker_that_hangs_up_and_asks_anew_loses_nothing(grid: Grid) -> None:
    """As workers of ours do whenever they have something to say."""
    worker = await grid.worker(capacity=2)
    for number in range(20):
        stream = grid.client.execute(await grid.client.upload("true", str(number)))
        poll = worker.poll()
        await asyncio.sleep(0.001 * (number % 7))  # whatever moment that is
        poll.cancel()
        await asyncio.wait([poll])
        await worker.run()
        assert (await stream.response()).status.code == code_pb2.OK


async def test_polls_are_answered_at_once_when_the_scheduler_stops(grid: Grid) -> None:
    worker = await grid.worker()
    poll = worker.poll()
    assert await nothing_happens(poll)
    grid.stop()
    assert not (await asyncio.wait_for(poll, 2)).leases


async def test_events_are_accepted(grid: Grid) -> None:
    """BOT-27."""
    request = pb.PostBotEventTempRequest(name="main/x", msg="hello")
    assert await BotsClient(grid.channel).post_bot_event_temp(request, timeout=5.0) == Empty()


async def test_workers_of_ours_take_every_digest_function_and_legacy_outputs(grid: Grid) -> None:
    worker = await grid.worker()
    for digest in (
        await grid.client.upload("true", function=DigestFunction.BLAKE3),
        await grid.client.upload(command=re.Command(arguments=["x"], output_files=["out"])),
    ):
        stream = grid.client.execute(digest)
        await worker.run()
        assert (await stream.response()).status.code == code_pb2.OK


async def started(grid: Grid, *arguments: str) -> Stream:
    """Execute a command; return its stream, of which one message was read."""
    stream = grid.client.execute(await grid.client.upload("true", *arguments))
    await stream.next()
    return stream
