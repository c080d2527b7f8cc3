"""What is told of an execution beside its result (checklist EMD)."""

from __future__ import annotations

import time

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import (
    Script,
    execute_request,
    metadata_of,
    operations,
    run,
    run_action,
    run_or_hit,
    upload,
)
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.results import a_result, get_result, update_result
from tests.conformance.target import Target

Stage = pb.ExecutionStage
#: In the order in which they are to be.
MOMENTS = (
    "queued",
    "worker_start",
    "input_fetch_start",
    "input_fetch_completed",
    "execution_start",
    "execution_completed",
    "output_upload_start",
    "output_upload_completed",
    "worker_completed",
)


@pytest.mark.parametrize("function", ["SHA256", "BLAKE3"])
async def test_emd_01_the_action_is_named(target: Target, function: str) -> None:
    needs(target, function)
    action = await upload(target, Script("true"), function=function)
    async for operation in operations(target, execute_request(target, action, function=function)):
        assert metadata_of(operation).action_digest == action


@pytest.mark.parametrize("function", ["SHA256", "BLAKE3"])
async def test_emd_02_the_digest_function_is_named(target: Target, function: str) -> None:
    needs(target, function)
    action = await upload(target, Script("true"), function=function)
    async for operation in operations(target, execute_request(target, action, function=function)):
        assert metadata_of(operation).digest_function == pb.DigestFunction.Value.Value(function)


async def test_emd_03_stages_come_in_their_order(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("sleep 0.5")))
    stages = [metadata_of(operation).stage async for operation in operations(target, request)]
    assert Stage.UNKNOWN not in stages
    assert stages == sorted(stages)
    assert {Stage.EXECUTING, Stage.COMPLETED} <= set(stages)


async def test_emd_04_what_runs_names_its_worker(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("sleep 0.5")))
    running = [
        metadata.partial_execution_metadata
        async for operation in operations(target, request)
        if (metadata := metadata_of(operation)).stage == Stage.EXECUTING
    ]
    assert running
    assert all(partial.worker and partial.HasField("queued_timestamp") for partial in running)


async def test_emd_05_the_moments_of_an_execution_are_in_their_order(target: Target) -> None:
    script = Script("cat f > out; sleep 0.2", inputs={"f": fresh(100_000)}, output_paths=["out"])
    before = time.time_ns()
    metadata = (await run(target, script)).result.execution_metadata
    moments = [getattr(metadata, f"{name}_timestamp").ToNanoseconds() for name in MOMENTS]
    assert metadata.worker
    assert all(moments)
    assert moments == sorted(moments)
    assert before - 5_000_000_000 < moments[0]
    assert moments[5] - moments[4] >= 200_000_000


async def test_emd_06_the_duration_is_that_of_the_command(target: Target) -> None:
    metadata = (await run(target, Script("sleep 0.3"))).result.execution_metadata
    began, finished = metadata.execution_start_timestamp, metadata.execution_completed_timestamp
    wall = finished.ToNanoseconds() - began.ToNanoseconds()
    assert 0 < metadata.virtual_execution_duration.ToNanoseconds() <= wall + 50_000_000


async def test_emd_07_what_the_server_does_not_know_is_kept(target: Target) -> None:
    action = await upload(target, Script("true"))
    unknown = Any(type_url="type.googleapis.com/some.future.Statistics", value=b"\x08\x2a")
    result = a_result()
    result.execution_metadata.auxiliary_metadata.append(unknown)
    await update_result(target, action, result)
    assert list((await get_result(target, action)).execution_metadata.auxiliary_metadata) == [unknown]
    response = await run_or_hit(target, action)
    assert response.cached_result
    assert list(response.result.execution_metadata.auxiliary_metadata) == [unknown]


async def test_emd_08_a_cached_result_tells_of_its_making(target: Target) -> None:
    action = await upload(target, Script("echo hello > out", output_paths=["out"]))
    first = await run_action(target, action)
    second = await run_or_hit(target, action)
    assert second.cached_result
    told, again = first.result.execution_metadata, second.result.execution_metadata
    assert again.worker == told.worker
    for name in MOMENTS:
        assert getattr(again, f"{name}_timestamp") == getattr(told, f"{name}_timestamp"), name


async def test_emd_09_logs_of_the_server_can_be_read(target: Target) -> None:
    script = Script("sleep 60", action={"salt": fresh(16), "timeout": Duration(seconds=1)})
    response = await run(target, script)
    for name, log in response.server_logs.items():
        assert name
        assert len(await target.read(target.resource(log.digest))) == log.digest.size_bytes


async def test_emd_10_streams_of_output_can_be_read_if_they_are_named(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("echo hello; sleep 0.5")))
    async for operation in operations(target, request):
        metadata = metadata_of(operation)
        for name in (metadata.stdout_stream_name, metadata.stderr_stream_name):
            if name:
                await target.read(name)


async def test_emd_11_what_a_command_says_is_there_by_its_digest(target: Target) -> None:
    silent = (await run(target, Script("true"))).result
    for digest in (silent.stdout_digest, silent.stderr_digest):
        assert digest in (pb.Digest(), digest_of(b""))
    said = (await run(target, Script("echo hello; echo sorry >&2"))).result
    assert await target.read(target.resource(said.stdout_digest)) == b"hello\n"
    assert await target.read(target.resource(said.stderr_digest)) == b"sorry\n"


def needs(target: Target, function: str) -> None:
    """Skip the test where *function* is not offered."""
    offered = target.capabilities.execution_capabilities.digest_functions
    if pb.DigestFunction.Value.Value(function) not in offered:
        pytest.skip(f"not testable here: {function} is not offered")
