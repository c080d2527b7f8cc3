"""google.longrunning.Operations, as clients see it."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.errors import InvalidRequest, NotFound, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.scheduler.grid import Grid, Stream, nothing_happens, open_grid, response_of


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


async def test_cancelling_what_is_done_is_fine_and_what_never_was_is_not_found(grid: Grid) -> None:
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


def encoded(text: str) -> str:
    """Return *text* as page tokens are written."""
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter": "name = x"},
        {"filter": "stage = nonsense"},
        {"page_token": "nonsense"},
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
    """OPS-01, OPS-11."""
    with pytest.raises(Unimplemented):
        await listed(grid, return_partial_success=True)
    with pytest.raises(Unimplemented):
        await grid.client.operations.delete_operation(operations_pb2.DeleteOperationRequest(name="main/x"), timeout=5.0)


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


async def test_finished_operations_are_forgotten_after_a_while(tmp_path: Path) -> None:
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


async def started(grid: Grid, *arguments: str) -> Stream:
    """Execute a command; return its stream, of which one message was read."""
    stream = grid.client.execute(await grid.client.upload(*arguments))
    await stream.next()
    return stream


async def listed(grid: Grid, **request: object) -> operations_pb2.ListOperationsResponse:
    """Return one page."""
    message = operations_pb2.ListOperationsRequest(**{"name": "main", **request})  # type: ignore[arg-type]
    return await grid.client.operations.list_operations(message, timeout=10.0)
