"""google.longrunning.Operations, as clients see it."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.errors import InvalidRequest, NotFound, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright.wire.request_metadata import KEY
from gridwright.wire.request_metadata import metadata_of as request_metadata_of
from tests.scheduler.grid import Grid, Stream, metadata_of, nothing_happens, open_grid, response_of


async def test_a_cancelled_operation_ends_with_that_status_and_never_starts(grid: Grid) -> None:
    """OPS-04, OPS-07, OPS-08, EXE-04."""
    stream = await started(grid, "true")
    await grid.client.cancel(stream.name)
    response = await stream.response()
    assert response.status.code == code_pb2.CANCELLED
    assert stream.seen[-1].WhichOneof("result") == "response"
    worker = await grid.worker()
    poll = worker.poll()
    assert await nothing_happens(poll)
    assert not grid.cache.results
    again = await started(grid, "true")
    assert len((await poll).leases) == 1
    await again.close()


async def test_cancelling_a_running_action_takes_it_from_its_worker_at_once(grid: Grid) -> None:
    """OPS-04."""
    stream = await started(grid, "sleep")
    worker = await grid.worker()
    await worker.take()
    poll = worker.poll()
    assert await nothing_happens(poll)
    await grid.client.cancel(stream.name)
    assert not (await poll).leases
    assert (await stream.response()).status.code == code_pb2.CANCELLED


async def test_a_result_that_comes_after_the_cancellation_changes_nothing(grid: Grid) -> None:
    stream = await started(grid, "sleep")
    worker = await grid.worker()
    [lease] = await worker.take()
    await grid.client.cancel(stream.name)
    worker.finish(lease.id, pb.ActionResult(stdout_raw=b"too late"))
    await worker.update()
    assert not worker.session.leases
    assert (await stream.response()).status.code == code_pb2.CANCELLED
    assert response_of(await grid.client.get(stream.name)).status.code == code_pb2.CANCELLED
    assert not grid.cache.results


async def test_cancelling_one_of_two_operations_leaves_the_other_alone(grid: Grid) -> None:
    """OPS-06."""
    first, second = await started(grid, "true"), await started(grid, "true")
    worker = await grid.worker()
    [lease] = await worker.take()
    await grid.client.cancel(first.name)
    assert (await first.response()).status.code == code_pb2.CANCELLED
    assert (await grid.client.get(first.name)).done
    assert not (await grid.client.get(second.name)).done
    worker.finish(lease.id, pb.ActionResult(stdout_raw=b"for the other"))
    await worker.update()
    assert (await second.response()).result.stdout_raw == b"for the other"
    assert response_of(await grid.client.get(first.name)).status.code == code_pb2.CANCELLED
    assert (await grid.client.wait(first.name).response()).status.code == code_pb2.CANCELLED


async def test_cancelling_both_operations_cancels_the_action(grid: Grid) -> None:
    first, second = await started(grid, "true"), await started(grid, "true")
    worker = await grid.worker()
    await worker.take()
    poll = worker.poll()
    for stream in (first, second):
        await grid.client.cancel(stream.name)
        assert (await stream.response()).status.code == code_pb2.CANCELLED
    assert not (await poll).leases


async def test_cancelling_what_is_done_is_fine_and_what_never_was_is_not_found(grid: Grid, one_replica: None) -> None:
    """OPS-03, OPS-05."""
    stream = await started(grid, "true")
    worker = await grid.worker()
    await worker.run()
    response = await stream.response()
    await grid.client.cancel(stream.name)
    assert response_of(await grid.client.get(stream.name)) == response
    cached = grid.client.execute(await grid.client.upload("true"))
    await cached.response()
    await grid.client.cancel(cached.name)
    for call in (grid.client.cancel, grid.client.get):
        with pytest.raises(NotFound):
            await call("main/nothing")


async def test_a_list_is_paged_without_duplicates(grid: Grid) -> None:
    """OPS-10."""
    streams = await asyncio.gather(*(started(grid, "true", str(number)) for number in range(25)))
    elsewhere = grid.client.execute(await grid.client.upload("true"), instance_name="other/one")
    await elsewhere.next()
    names: list[str] = []
    token = ""
    while True:
        page = await listed(grid, page_size=10, page_token=token)
        assert len(page.operations) <= 10
        names += [operation.name for operation in page.operations]
        token = page.next_page_token
        if not token:
            break
    assert len(names) == 25
    assert set(names) == {stream.name for stream in streams}
    for stream in (*streams, elsewhere):
        await stream.close()


async def test_a_page_has_no_more_than_clients_accept(grid: Grid) -> None:
    worker = await grid.worker()
    for number in range(6):
        stream = await started(grid, "true", str(number))
        await worker.run(pb.ActionResult(stdout_raw=bytes(1_500_000 if number else 5_000_000)))
        await stream.response()
    sizes: list[int] = []
    token = ""
    while True:
        page = await listed(grid, page_token=token)
        sizes.append(len(page.operations))
        token = page.next_page_token
        if not token:
            break
        assert page.ByteSize() < 4 * 2**20 or len(page.operations) == 1
    assert sizes == [1, 2, 2, 1]  # the first is too large in itself


async def test_a_list_can_be_narrowed_to_a_stage(grid: Grid) -> None:
    done, cancelled = await started(grid, "done"), await started(grid, "cancelled")
    await grid.client.cancel(cancelled.name)
    worker = await grid.worker()
    await worker.run()
    await done.response()
    running = await started(grid, "running")
    await worker.take()
    waiting = await started(grid, "waiting")

    async def names(filter_: str) -> set[str]:
        return {operation.name for operation in (await listed(grid, filter=filter_)).operations}

    assert await names("stage = completed") == {done.name, cancelled.name}
    assert await names("stage=EXECUTING") == {running.name}
    assert await names("stage = queued") == {waiting.name}
    assert await names("stage != completed") == {running.name, waiting.name}
    assert await names("stage != queued") == {done.name, cancelled.name, running.name}
    for stream in (running, waiting):
        await stream.close()


async def test_a_list_can_be_narrowed_to_an_invocation_an_action_a_worker_and_a_name(grid: Grid) -> None:
    """OPS-10."""
    first = await began_in(grid, "build 1", "first")
    done = await began_in(grid, "build 2", "done")
    worker = await grid.worker("w-2")
    for _ in range(2):
        await worker.run()
    await done.response()
    quiet = await started(grid, "quiet")
    digest = metadata_of(done.seen[0]).action_digest
    both = {first.name, done.name}

    async def names(filter_: str) -> set[str]:
        return {operation.name for operation in (await listed(grid, filter=filter_)).operations}

    assert await names('invocation_id = "build 1"') == {first.name}
    assert await names('invocation_id != "build 1"') == {done.name, quiet.name}
    assert await names(f"action_digest = {digest.hash}/{digest.size_bytes}") == {done.name}
    assert await names(f"action_digest={digest.hash}/{digest.size_bytes + 1}") == set()
    assert await names("worker = w-2") == both
    assert await names("worker != w-2 & stage = queued") == {quiet.name}
    assert await names('stage=completed&invocation_id="build 2"&worker=w-2') == {done.name}
    assert await names("stage = completed & stage = queued") == set()
    assert await names(f"name = {quiet.name}") == {quiet.name}
    assert await names(f"name = {quiet.name.removeprefix('main/')}") == {quiet.name}
    assert await names(f"name != {quiet.name}") == both
    for stream in (first, quiet):
        await stream.close()


async def test_a_filter_that_cannot_be_read_is_refused_with_what_to_write(grid: Grid) -> None:
    with pytest.raises(InvalidRequest, match=r"unknown key 'colour'.*stage.*invocation_id.*action_digest.*joined by &"):
        await listed(grid, filter="stage = queued & colour = red")


async def test_an_operation_that_is_deleted_is_forgotten_and_its_action_goes_on(grid: Grid) -> None:
    """OPS-09."""
    stream = await began_in(grid, "build", "true")
    worker = await grid.worker()
    [lease] = await worker.take()
    await delete(grid, stream.name)
    for again in (grid.client.get, partial(delete, grid)):
        with pytest.raises(NotFound):
            await again(stream.name)
    with pytest.raises(NotFound):
        await grid.client.wait(stream.name).next()
    assert not (await listed(grid)).operations
    worker.finish(lease.id, pb.ActionResult(stdout_raw=b"for the cache"))
    await worker.update()
    assert (await stream.response()).result.stdout_raw == b"for the cache"
    assert grid.cache.results


async def test_an_operation_that_the_cache_answered_can_be_deleted(grid: Grid, one_replica: None) -> None:
    """OPS-09."""
    digest = await grid.client.upload("true")
    grid.cache.results["main", digest.hash] = pb.ActionResult()
    stream = grid.client.execute(digest)
    await stream.response()
    await delete(grid, stream.name)
    with pytest.raises(NotFound):
        await grid.client.get(stream.name)


async def test_an_invocation_is_cancelled_as_a_whole_and_nothing_else_is(grid: Grid) -> None:
    of_it = [await began_in(grid, "build/1", str(number)) for number in range(3)]
    shared = await began_in(grid, "build/1", "shared")
    other = await began_in(grid, "build/2", "shared")
    quiet = await started(grid, "quiet")
    worker = await grid.worker()
    await worker.take()
    poll = worker.poll()
    assert await nothing_happens(poll)
    await grid.client.cancel("main/invocations/build/1")
    for stream in (*of_it, shared):
        assert (await stream.response()).status.code == code_pb2.CANCELLED
    assert not (await poll).leases
    for _ in range(2):
        await worker.run(pb.ActionResult(stdout_raw=b"for the others"))
    for stream in (other, quiet):
        assert (await stream.response()).result.stdout_raw == b"for the others"
    await grid.client.cancel("main/invocations/build/1")  # OPS-05


@pytest.mark.parametrize("name", ["main/invocations/never", "main/invocations/", "nowhere/invocations/build"])
async def test_an_invocation_that_nobody_knows_is_not_found(grid: Grid, name: str) -> None:
    """OPS-03."""
    stream = await began_in(grid, "build", "true")
    with pytest.raises(NotFound):
        await grid.client.cancel(name)
    assert not (await grid.client.get(stream.name)).done
    await grid.client.cancel("invocations/build")  # of the instance that the empty name means
    assert (await stream.response()).status.code == code_pb2.CANCELLED


def encoded(text: str) -> str:
    """Return *text* as page tokens are written."""
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter": "stage = nonsense"},
        {"filter": "stage"},
        {"filter": "stage = queued &"},
        {"filter": "& stage = queued"},
        {"filter": "stage = queued, worker = w"},
        {"filter": "stage < completed"},
        {"filter": "colour = red"},
        {"filter": "action_digest = nonsense"},
        {"filter": f"action_digest = {'0' * 64}/{'9' * 19}"},
        {"filter": "worker = a\0b"},
        {"filter": " & ".join(["worker != w"] * 21)},
        {"filter": f"worker = {'w' * 9000}"},
        {"page_token": "nonsense"},
        {"page_token": encoded('[1.0, "a\\u0000b"]')},
        {"page_token": "WzEsMl0="},
        {"page_token": encoded(f'[1{"0" * 400}, "x"]')},
        {"page_token": encoded("[" * 10_000)},
        {"page_token": encoded("[" * 100_000)},
        {"page_size": 1001},
        {"page_size": -1},
        {"name": "nowhere"},
    ],
)
async def test_a_list_that_cannot_be_made_is_refused(grid: Grid, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await listed(grid, **wrong)


async def test_what_is_not_offered_says_so(grid: Grid) -> None:
    """OPS-11."""
    with pytest.raises(Unimplemented):
        await listed(grid, return_partial_success=True)


async def test_waiting_for_an_operation_ends_with_it_or_with_the_time(grid: Grid) -> None:
    """OPS-12."""
    stream = await started(grid, "true")
    request = operations_pb2.WaitOperationRequest(name=stream.name, timeout={"nanos": 100_000_000})
    assert not (await grid.client.operations.wait_operation(request, timeout=5.0)).done
    request.ClearField("timeout")
    waiting = asyncio.create_task(grid.client.operations.wait_operation(request, timeout=20.0))
    assert await nothing_happens(waiting)
    worker = await grid.worker()
    await worker.run()
    assert (await waiting).done
    await stream.close()


async def test_finished_operations_are_forgotten_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_scheduler.upkeep.NOW_AND_THEN", 1)
    async with open_grid(tmp_path, retention_seconds=0.2) as grid:
        stream = await started(grid, "true")
        worker = await grid.worker()
        await worker.run()
        await stream.response()
        async with asyncio.timeout(20):
            while (await listed(grid)).operations:  # noqa: ASYNC110  # what is forgotten tells nobody
                await asyncio.sleep(0.1)
        with pytest.raises(NotFound):
            await grid.client.get(stream.name)
        again = grid.client.execute(await grid.client.upload("true"), skip_cache_lookup=True)
        await again.next()
        await worker.run()
        assert (await again.response()).status.code == code_pb2.OK


async def test_an_operation_tells_who_began_it_and_not_who_joined_its_action(grid: Grid) -> None:
    """HDR-03, HDR-04."""
    digest = await grid.client.upload("sleep")
    said = {}
    for invocation in ("first", "second"):
        sent = request_metadata_of(pb.RequestMetadata(tool_invocation_id=invocation, target_id="//a:b"))
        request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(digest))
        stream = Stream(grid.client.execution.execute(request, timeout=60.0, metadata=sent))
        await stream.next()
        said[stream.name] = sent
        await stream.close()
    quiet = await started(grid, "true")
    said[quiet.name] = ()
    await quiet.close()
    for name, sent in said.items():
        assert await trailers_of(grid, name) == tuple(sent)


async def test_an_operation_that_the_cache_answered_tells_who_began_it(grid: Grid, one_replica: None) -> None:
    """HDR-03."""
    digest = await grid.client.upload("true")
    grid.cache.results["main", digest.hash] = pb.ActionResult(stdout_raw=b"cached")
    sent = request_metadata_of(pb.RequestMetadata(tool_invocation_id="first"))
    request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(digest))
    stream = Stream(grid.client.execution.execute(request, timeout=60.0, metadata=sent))
    assert (await stream.response()).cached_result
    assert await trailers_of(grid, stream.name) == tuple(sent)
    await stream.close()


async def trailers_of(grid: Grid, name: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return what comes after the answer to GetOperation."""
    heard: list[tuple[str, str | bytes]] = []
    request = operations_pb2.GetOperationRequest(name=name)
    await grid.client.operations.get_operation(request, timeout=10.0, on_trailers=heard.extend)
    return tuple((key, value) for key, value in heard if key == KEY)


async def started(grid: Grid, *arguments: str) -> Stream:
    """Execute a command; return its stream, of which one message was read."""
    stream = grid.client.execute(await grid.client.upload(*arguments))
    await stream.next()
    return stream


async def began_in(grid: Grid, invocation: str, *arguments: str) -> Stream:
    """Execute a command as part of *invocation*; return its stream, of which one message was read."""
    digest = await grid.client.upload(*arguments)
    request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(digest))
    sent = request_metadata_of(pb.RequestMetadata(tool_invocation_id=invocation))
    stream = Stream(grid.client.execution.execute(request, timeout=60.0, metadata=sent))
    await stream.next()
    return stream


async def delete(grid: Grid, name: str) -> None:
    """Have the operation *name* forgotten."""
    await grid.client.operations.delete_operation(operations_pb2.DeleteOperationRequest(name=name), timeout=10.0)


async def listed(grid: Grid, **request: object) -> operations_pb2.ListOperationsResponse:
    """Return one page."""
    message = operations_pb2.ListOperationsRequest(**{"name": "main", **request})  # type: ignore[arg-type]
    return await grid.client.operations.list_operations(message, timeout=10.0)
