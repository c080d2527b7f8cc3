"""What becomes of operations beside their streams (checklist OPS)."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.request_metadata import metadata_of as headers_of
from tests.conformance.actions import (
    Script,
    cancel,
    ended,
    execute_request,
    metadata_of,
    operations,
    response_of,
    run_action,
    started,
    upload,
)
from tests.conformance.results import get_result
from tests.conformance.target import Metadata, Target, refused
from tests.journeys.grid import Grid, runs

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
LONG = "sleep 60"


async def test_ops_01_what_is_not_offered_is_unimplemented(target: Target) -> None:
    name = unknown(target)
    with refused(NOT_FOUND):
        await get(target, name)
    with refused(NOT_FOUND, UNIMPLEMENTED):
        await delete(target, name)
    with refused(NOT_FOUND, UNIMPLEMENTED):
        await wait(target, name, seconds=1)
    request = operations_pb2.CancelOperationRequest(name=name)
    with refused(NOT_FOUND, UNIMPLEMENTED):
        await target.unary("Operations/CancelOperation", request, Empty)


async def test_ops_02_an_operation_is_the_same_by_its_name_as_in_its_stream(target: Target) -> None:
    last = await ended(target, execute_request(target, await upload(target, Script("echo hello"))))
    assert await get(target, last.name) == last


async def test_ops_02_an_operation_that_goes_on_is_shown_as_it_is(target: Target) -> None:
    action = await upload(target, Script(LONG))
    operation = await started(target, execute_request(target, action))
    seen = await get(target, operation.name)
    assert (seen.name, seen.done, seen.WhichOneof("result")) == (operation.name, False, None)
    assert metadata_of(seen).action_digest == action
    await cancel(target, operation)


async def test_ops_03_an_operation_that_nobody_knows_is_not_found(target: Target) -> None:
    for name in (unknown(target), str(uuid.uuid4()), "nowhere/" + unknown(target)):
        with refused(NOT_FOUND):
            await get(target, name)


async def test_ops_04_a_cancelled_operation_ends_with_that_status(target: Target) -> None:
    stream = operations(target, execute_request(target, await upload(target, Script(LONG))))
    await cancel(target, await executing(stream))
    operation = [operation async for operation in stream][-1]
    assert operation.WhichOneof("result") == "response"
    assert response_of(operation).status.code == code_pb2.CANCELLED


async def test_ops_04_the_processes_of_a_cancelled_action_end(target: Target, own_grid: Grid) -> None:
    # Nobody else sleeps for so long.
    command = ["sleep", f"{2_000_000 + time.time_ns() % 1_000_000}"]
    action = await upload(target, Script(" ".join(command) + "; true"))
    operation = await started(target, execute_request(target, action))
    async with asyncio.timeout(20):
        while not runs(command):  # noqa: ASYNC110  # a process that begins tells nobody
            await asyncio.sleep(0.02)
        await cancel(target, operation)
        while runs(command):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_ops_05_cancelling_what_is_done_changes_nothing(target: Target) -> None:
    last = await ended(target, execute_request(target, await upload(target, Script("true"))))
    await cancel(target, last)
    assert await get(target, last.name) == last


async def test_ops_06_cancelling_one_of_two_operations_leaves_the_other(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("sleep 1.5")))
    first = await started(target, request)
    other = asyncio.create_task(ended(target, request))
    await asyncio.sleep(0.3)
    await cancel(target, first)
    assert response_of(await get(target, first.name)).status.code == code_pb2.CANCELLED
    response = response_of(await other)
    assert (response.status.code, response.result.exit_code) == (0, 0)


async def test_ops_07_what_was_cancelled_is_not_cached(target: Target) -> None:
    action = await upload(target, Script(LONG))
    await cancel(target, await started(target, execute_request(target, action)))
    with refused(NOT_FOUND):
        await get_result(target, action)


async def test_ops_08_what_is_cancelled_in_the_queue_never_starts(small: Target) -> None:
    """The small grid runs one action at a time."""
    first = await executing(operations(small, execute_request(small, await upload(small, Script(LONG)))))
    waiting = await started(small, execute_request(small, await upload(small, Script("true"))))
    await cancel(small, waiting)
    await cancel(small, first)
    after = await run_action(small, await upload(small, Script("true")))
    assert after.result.exit_code == 0
    seen = await get(small, waiting.name)
    assert response_of(seen).status.code == code_pb2.CANCELLED
    assert metadata_of(seen).partial_execution_metadata.worker == ""


async def test_ops_09_what_is_deleted_is_forgotten_and_goes_on(target: Target) -> None:
    action = await upload(target, Script("sleep 1; echo hello > out", output_paths=["out"]))
    request = execute_request(target, action)
    first = await started(target, request)
    other = asyncio.create_task(ended(target, request))
    await asyncio.sleep(0.2)
    await delete(target, first.name)
    with refused(NOT_FOUND):
        await get(target, first.name)
    waiting = pb.WaitExecutionRequest(name=first.name)
    with refused(NOT_FOUND):
        async for _ in target.streamed("Execution/WaitExecution", waiting, operations_pb2.Operation):
            pytest.fail("it is forgotten")
    assert response_of(await other).result.exit_code == 0
    await get_result(target, action)


async def test_ops_10_a_list_pages_through_all_without_duplicates(target: Target) -> None:
    invocation, headers = new_invocation()
    request = execute_request(target, await upload(target, Script(LONG)))
    begun = [await started(target, request, metadata=headers) for _ in range(35)]
    pages = [page async for page in all_pages(target, f"invocation_id = {invocation}", size=10)]
    names = [operation.name for page in pages for operation in page]
    assert [len(page) for page in pages] == [10, 10, 10, 5]
    assert sorted(names) == sorted(operation.name for operation in begun)
    await asyncio.gather(*(cancel(target, operation) for operation in begun))


async def test_ops_10_a_list_is_narrowed_by_its_filter(target: Target) -> None:
    invocation, headers = new_invocation()
    action = await upload(target, Script("true"))
    done = await started(target, execute_request(target, action), metadata=headers)
    await wait(target, done.name, seconds=20)
    going = await started(target, execute_request(target, await upload(target, Script(LONG))), metadata=headers)
    worker = metadata_of(await get(target, done.name)).partial_execution_metadata.worker
    ours = f"invocation_id = {invocation}"
    expected = {
        ours: {done.name, going.name},
        f"{ours} & stage = completed": {done.name},
        f"{ours} & stage != completed": {going.name},
        f"{ours} & action_digest = {action.hash}/{action.size_bytes}": {done.name},
        f"{ours} & stage = completed & worker = {worker}": {done.name},
        f"{ours} & name = {going.name}": {going.name},
        f"{ours} & stage = queued & stage = completed": set(),
    }
    for filter_, names in expected.items():
        found = {operation.name async for page in all_pages(target, filter_) for operation in page}
        assert found == names, filter_
    await cancel(target, going)


@pytest.mark.parametrize(
    "fields", [{"page_token": "nonsense"}, {"filter": "nonsense"}, {"filter": "colour = red"}, {"page_size": -1}]
)
async def test_ops_10_a_list_that_cannot_be_made_is_invalid(target: Target, fields: dict[str, object]) -> None:
    with refused(INVALID, UNIMPLEMENTED):
        await listed(target, **fields)


async def test_ops_11_a_partial_list_is_unimplemented(target: Target) -> None:
    await listed(target, page_size=1, return_partial_success=False)
    with refused(UNIMPLEMENTED):
        await listed(target, return_partial_success=True)


async def test_ops_12_waiting_ends_with_the_time_or_with_the_operation(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 1.5"))))
    assert not (await wait(target, operation.name, seconds=0)).done
    assert (await wait(target, operation.name, seconds=20)).done


async def test_ops_13_operations_of_another_instance_are_not_seen(target: Target, neighbour: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("true"))))
    unique = operation.name.rpartition("/")[2]
    with refused(NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
        await get(neighbour, f"{neighbour.prefix}{unique}")
    pages = [page async for page in all_pages(neighbour, f"name = {unique}")]
    assert not any(pages)


def unknown(target: Target) -> str:
    """Return the name of an operation that there never was."""
    return f"{target.prefix}{uuid.uuid4()}"


def new_invocation() -> tuple[str, Metadata]:
    """Return an id that no build has had, and the headers of its calls."""
    invocation = str(uuid.uuid4())
    return invocation, headers_of(pb.RequestMetadata(tool_invocation_id=invocation))


async def executing(stream: AsyncIterator[operations_pb2.Operation]) -> operations_pb2.Operation:
    """Read until the action runs."""
    async for operation in stream:
        if metadata_of(operation).stage == pb.ExecutionStage.EXECUTING:
            return operation
    raise AssertionError("it ended before it began")


async def get(target: Target, name: str) -> operations_pb2.Operation:
    """Ask for the operation *name*."""
    request = operations_pb2.GetOperationRequest(name=name)
    return await target.unary("Operations/GetOperation", request, operations_pb2.Operation)


async def delete(target: Target, name: str) -> None:
    """Have the operation *name* forgotten."""
    await target.unary("Operations/DeleteOperation", operations_pb2.DeleteOperationRequest(name=name), Empty)


async def wait(target: Target, name: str, *, seconds: int) -> operations_pb2.Operation:
    """Wait for the operation *name*."""
    request = operations_pb2.WaitOperationRequest(name=name, timeout=Duration(seconds=seconds))
    return await target.unary("Operations/WaitOperation", request, operations_pb2.Operation)


async def listed(target: Target, **fields: object) -> operations_pb2.ListOperationsResponse:
    """Return one page of the operations of the instance."""
    request = operations_pb2.ListOperationsRequest(name=target.instance, **fields)  # type: ignore[arg-type]
    return await target.unary("Operations/ListOperations", request, operations_pb2.ListOperationsResponse)


async def all_pages(target: Target, filter_: str, *, size: int = 100) -> AsyncIterator[list[operations_pb2.Operation]]:
    """Yield the operations that fit *filter_*, page by page."""
    token = ""
    while True:
        page = await listed(target, filter=filter_, page_size=size, page_token=token)
        yield list(page.operations)
        token = page.next_page_token
        if not token:
            return
