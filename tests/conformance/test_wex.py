"""Execution.WaitExecution (checklist WEX)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import (
    Script,
    cancel,
    ended,
    execute_request,
    metadata_of,
    response_of,
    started,
    upload,
    upload_action,
    wait_for,
)
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.target import Target, refused
from tests.journeys.grid import Grid

Stage = pb.ExecutionStage


async def test_wex_01_the_state_comes_at_once_and_the_end_when_it_is_there(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 1.5"))))
    stream = waiting(target, operation.name)
    async with asyncio.timeout(1.0):
        first = await anext(stream)
    assert (first.name, first.done) == (operation.name, False)
    last = [one async for one in stream][-1]
    assert (last.name, last.done, response_of(last).result.exit_code) == (operation.name, True, 0)


@pytest.mark.parametrize("instance", ["", "nowhere/"])
async def test_wex_02_a_name_that_nobody_knows_is_not_found(target: Target, instance: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        await wait_for(target, f"{instance}{target.prefix}{uuid.uuid4()}")


async def test_wex_03_what_is_done_can_be_waited_for(target: Target) -> None:
    last = await ended(target, execute_request(target, await upload(target, Script("echo hello"))))
    assert [one async for one in waiting(target, last.name)] == [last]


async def test_wex_04_what_goes_on_is_told_in_its_order(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 1.5"))))
    seen = [one async for one in waiting(target, operation.name)]
    assert len(seen) >= 2
    assert {one.name for one in seen} == {operation.name}
    stages = [metadata_of(one).stage for one in seen]
    assert stages == sorted(stages)


async def test_wex_05_several_wait_and_one_that_leaves_disturbs_no_other(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 1.5"))))
    streams = [waiting(target, operation.name) for _ in range(3)]
    for stream in streams:
        assert not (await anext(stream)).done
    await streams.pop().aclose()  # type: ignore[attr-defined]  # streamed() is a generator
    ends = [[one async for one in stream][-1] for stream in streams]
    assert ends[0] == ends[1]
    assert response_of(ends[0]).result.exit_code == 0


async def test_wex_06_waiting_goes_on_after_a_restart(small: Target, small_grid: Grid) -> None:
    operation = await started(small, execute_request(small, await upload(small, Script("sleep 2.5"))))
    mark = small_grid.kill("scheduler")
    with refused(grpc.StatusCode.UNAVAILABLE):
        async for _ in waiting(small, operation.name):
            pass
    await asyncio.to_thread(small_grid.wait_well_again, mark)
    last = await wait_for_again(small, operation.name)
    assert (last.done, response_of(last).result.exit_code) == (True, 0)


async def test_wex_07_no_name_is_invalid(target: Target) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await wait_for(target, "")


async def test_wex_08_what_goes_wrong_with_the_action_is_in_its_response(target: Target) -> None:
    root = pb.Directory(files=[{"name": "f", "digest": digest_of(fresh())}])
    input_root = await target.put(root.SerializeToString())
    operation = await started(target, execute_request(target, await upload_action(target, Script("true"), input_root)))
    last = await wait_for(target, operation.name)
    assert response_of(last).status.code == code_pb2.FAILED_PRECONDITION


async def test_wex_08_a_cancelled_operation_is_told_so(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 60"))))
    stream = waiting(target, operation.name)
    await anext(stream)
    await cancel(target, operation)
    assert response_of([one async for one in stream][-1]).status.code == code_pb2.CANCELLED


def waiting(target: Target, name: str) -> AsyncIterator[operations_pb2.Operation]:
    """Yield what WaitExecution says of the operation *name*."""
    request = pb.WaitExecutionRequest(name=name)
    return target.streamed("Execution/WaitExecution", request, operations_pb2.Operation)


async def wait_for_again(target: Target, name: str) -> operations_pb2.Operation:
    """Wait as clients do whose server was away: the way to it may not be there yet."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await wait_for(target, name)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)
