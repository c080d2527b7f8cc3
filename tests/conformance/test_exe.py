"""Execution.Execute, and what its streams say (checklist EXE)."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import (
    Script,
    cancel,
    ended,
    execute_request,
    metadata_of,
    operations,
    output,
    response_of,
    run,
    run_action,
    run_or_hit,
    started,
    upload,
    upload_action,
    wait_for,
)
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.commands import subject
from tests.conformance.results import a_result, get_result, update_result
from tests.conformance.target import Target, refused
from tests.journeys.grid import Grid

Stage = pb.ExecutionStage
INVALID = grpc.StatusCode.INVALID_ARGUMENT
RANDOM = "head -c 16 /dev/urandom > out"
RESPONSE_TYPE = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse"
METADATA_TYPE = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata"
#: So many streams are open at once in a test.
STREAMS = 1_000


async def test_exe_01_a_stream_ends_with_an_operation_that_is_done(target: Target) -> None:
    seen = await heard(target, Script("echo hello"))
    assert [operation.done for operation in seen] == [False] * (len(seen) - 1) + [True]


async def test_exe_02_a_response_is_an_execute_response(target: Target) -> None:
    assert (await heard(target, Script("true")))[-1].response.type_url == RESPONSE_TYPE


async def test_exe_03_the_metadata_is_that_of_an_execution(target: Target) -> None:
    action = await upload(target, Script("true"))
    seen = [operation async for operation in operations(target, execute_request(target, action))]
    assert {operation.metadata.type_url for operation in seen} == {METADATA_TYPE}
    assert all(metadata_of(operation).action_digest == action for operation in seen)


@pytest.mark.parametrize("text", ["true", "exit 3", "sleep 60"])
async def test_exe_04_no_operation_has_an_error(target: Target, text: str) -> None:
    action = {"salt": fresh(16), "timeout": Duration(seconds=1)}
    seen = await heard(target, Script(text, action=action))
    assert seen[-1].WhichOneof("result") == "response"


async def test_exe_04_nor_has_one_that_is_cancelled(target: Target) -> None:
    stream = operations(target, execute_request(target, await upload(target, Script("sleep 60"))))
    await cancel(target, await anext(stream))
    last = [operation async for operation in stream][-1]
    assert last.WhichOneof("result") == "response"


async def test_exe_05_what_is_done_has_a_response_and_nothing_else_has(target: Target) -> None:
    seen = await heard(target, Script("true"))
    assert [operation.WhichOneof("result") for operation in seen] == [None] * (len(seen) - 1) + ["response"]


async def test_exe_06_what_is_done_is_completed_and_nothing_else_is(target: Target) -> None:
    for operation in await heard(target, Script("true")):
        assert operation.done == (metadata_of(operation).stage == Stage.COMPLETED)


async def test_exe_07_an_operation_has_one_name_of_its_own(target: Target) -> None:
    action = await upload(target, Script("sleep 0.5"))
    request = execute_request(target, action)
    streams = [[one async for one in operations(target, request)] for _ in range(2)]
    names = [{operation.name for operation in seen} for seen in streams]
    assert [len(one) for one in names] == [1, 1]
    assert names[0] != names[1]
    (name,) = names[0]
    assert name.startswith(target.prefix)
    waited = await wait_for(target, name)
    assert (waited.name, waited.done) == (name, True)


async def test_exe_08_the_first_message_does_not_wait_for_a_worker(small: Target) -> None:
    """The small grid runs one action at a time."""
    busy = operations(small, execute_request(small, await upload(small, Script("sleep 2"))))
    async for operation in busy:
        if metadata_of(operation).stage == Stage.EXECUTING:
            break
    waiting = await started(small, execute_request(small, await upload(small, Script("true"))))
    assert metadata_of(waiting).stage == Stage.QUEUED
    running = await operation_of(small, operation.name)
    assert not running.done
    await cancel(small, waiting)
    await cancel(small, running)


async def test_exe_09_an_action_whose_worker_dies_goes_back_to_the_queue(small: Target, small_grid: Grid) -> None:
    stages = []
    well_again = None
    async for operation in operations(small, execute_request(small, await upload(small, Script("sleep 1.5")))):
        stages.append(metadata_of(operation).stage)
        if stages[-1] == Stage.EXECUTING and well_again is None:
            mark = small_grid.kill("worker")
            well_again = asyncio.create_task(asyncio.to_thread(small_grid.wait_well_again, mark))
    assert well_again is not None
    await well_again
    assert response_of(operation).result.exit_code == 0
    first = stages.index(Stage.EXECUTING)
    assert Stage.QUEUED in stages[first:]


async def test_exe_10_an_operation_outlives_the_call_that_began_it(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("sleep 2")))
    name = ""
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        async for operation in operations(target, request, timeout=1.0):
            name = operation.name
    response = response_of(await wait_for(target, name))
    assert (response.status.code, response.result.exit_code) == (0, 0)


async def test_exe_11_what_is_wrong_with_the_call_fails_it_and_what_goes_wrong_later_does_not(target: Target) -> None:
    with refused(INVALID):
        await started(target, execute_request(target, pb.Digest(hash="nonsense", size_bytes=1)))
    action = {"salt": fresh(16), "timeout": Duration(seconds=1)}
    response = await run(target, Script("sleep 60", action=action))
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED


async def test_exe_12_inputs_that_are_missing_are_told_in_the_response(target: Target) -> None:
    absent = digest_of(fresh())
    root = pb.Directory(files=[{"name": "f", "digest": absent}])
    digest = await target.put(root.SerializeToString(deterministic=True))
    response = await run_action(target, await upload_action(target, Script("true"), digest))
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    failure = error_details_pb2.PreconditionFailure()
    assert response.status.details[0].Unpack(failure)
    assert [(one.type, one.subject) for one in failure.violations] == [("MISSING", subject(absent))]


async def test_exe_13_an_action_that_is_missing_is_asked_for(target: Target) -> None:
    absent = digest_of(fresh())
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
        await started(target, execute_request(target, absent))
    violations = refusal.detail(error_details_pb2.PreconditionFailure).violations
    assert [one.type for one in violations] == ["MISSING"]
    assert f"/{absent.hash}/{absent.size_bytes}" in violations[0].subject


@pytest.mark.parametrize("garbage", [b"\x00" * 16, b"\x0a\xff" + b"\xff" * 14])
async def test_exe_14_an_action_that_is_none_is_invalid(target: Target, garbage: bytes) -> None:
    with refused(INVALID):
        await started(target, execute_request(target, await target.put(garbage + fresh(8))))


async def test_exe_15_documents_that_are_not_canonical_are_refused_or_are_other_actions(target: Target) -> None:
    salt = fresh(16)
    variables = [{"name": name, "value": name} for name in ("A", "B")]
    actions = [
        await upload(target, Script("true", command={"environment_variables": order}, action={"salt": salt}))
        for order in (variables, variables[::-1])
    ]
    assert (await run_action(target, actions[0])).result.exit_code == 0
    with refused(grpc.StatusCode.NOT_FOUND):
        await get_result(target, actions[1])
    assert (await run_action(target, actions[1])).result.exit_code == 0


async def test_exe_16_a_result_from_before_is_not_given_to_who_wants_none(target: Target) -> None:
    action = await upload(target, Script(RANDOM, output_paths=["out"]))
    first, second = [await run_action(target, action) for _ in range(2)]
    assert not second.cached_result
    assert output(first, "out").digest != output(second, "out").digest


async def test_exe_17_who_wants_no_cached_result_may_join_what_runs(target: Target) -> None:
    action = await upload(target, Script(f"{RANDOM}; sleep 1", output_paths=["out"]))
    request = execute_request(target, action)
    cached = pb.ExecuteRequest()
    cached.CopyFrom(request)
    cached.skip_cache_lookup = False
    first = asyncio.create_task(ended(target, cached))
    await asyncio.sleep(0.3)
    second = response_of(await ended(target, request))
    assert (second.result.exit_code, second.cached_result) == (0, False)
    if target.kind != "endpoint":  # others need not
        assert output(response_of(await first), "out").digest == output(second, "out").digest
    await first


async def test_exe_18_a_fresh_result_takes_the_place_of_the_old_one(target: Target) -> None:
    action = await upload(target, Script("echo fresh > out", output_paths=["out"]))
    await update_result(target, action, a_result(exit_code=0, stdout_raw=b"poison"))
    response = await run_action(target, action)
    result = await get_result(target, action)
    assert (result.output_files, result.stdout_raw) == (response.result.output_files, b"")


async def test_exe_19_a_cached_result_is_given_as_such(target: Target) -> None:
    action = await upload(target, Script(RANDOM, output_paths=["out"]))
    first = await run_action(target, action)
    second = await run_or_hit(target, action)
    assert (first.cached_result, second.cached_result) == (False, True)
    assert second.result.output_files == first.result.output_files
    assert second.result.execution_metadata.worker == first.result.execution_metadata.worker
    assert second.result.execution_metadata.worker_start_timestamp == (
        first.result.execution_metadata.worker_start_timestamp
    )


async def test_exe_20_a_cached_result_whose_outputs_are_gone_is_not_given(target: Target) -> None:
    action = await upload(target, Script("echo fresh > out", output_paths=["out"]))
    gone = pb.OutputFile(path="out", digest=digest_of(fresh()))
    await update_result(target, action, a_result(output_files=[gone]))
    response = await run_or_hit(target, action)
    assert not response.cached_result
    assert output(response, "out").digest == digest_of(b"fresh\n")


async def test_exe_21_the_smaller_priority_runs_first(small: Target) -> None:
    """The small grid runs one action at a time."""
    busy = await started(small, execute_request(small, await upload(small, Script("sleep 2"))))
    waiting = {}
    for priority in (10, 0, -10):
        request = execute_request(small, await upload(small, Script("sleep 0.1")))
        request.execution_policy.priority = priority
        waiting[priority] = await started(small, request)
    await cancel(small, busy)
    began = {}
    for priority, operation in waiting.items():
        metadata = response_of(await wait_for(small, operation.name)).result.execution_metadata
        began[priority] = metadata.worker_start_timestamp.ToNanoseconds()
    assert sorted(began, key=began.__getitem__) == [-10, 0, 10]


@pytest.mark.parametrize("priority", [2**31 - 1, -(2**31)])
async def test_exe_21_any_priority_is_taken(target: Target, priority: int) -> None:
    request = execute_request(target, await upload(target, Script("true")))
    request.execution_policy.priority = priority
    assert response_of(await ended(target, request)).result.exit_code == 0


@pytest.mark.parametrize("priority", [0, 100, -100])
async def test_exe_22_a_priority_for_the_cache_is_taken(target: Target, priority: int) -> None:
    request = execute_request(target, await upload(target, Script("true")))
    request.results_cache_policy.priority = priority
    assert response_of(await ended(target, request)).result.exit_code == 0


async def test_exe_23_what_is_cached_is_inlined_when_asked_for(target: Target) -> None:
    action = await upload(target, Script("echo said; echo hello > out", output_paths=["out"]))
    first = await run_action(target, action)
    request = execute_request(target, action)
    request.skip_cache_lookup = False
    request.inline_stdout = True
    request.inline_output_files.append("out")
    second = response_of(await ended(target, request))
    assert (first.cached_result, second.cached_result) == (False, True)
    assert second.result.stdout_raw == b"said\n"
    assert output(second, "out").contents == b"hello\n"


async def test_exe_24_an_action_that_is_executed_again_has_the_same_result(target: Target) -> None:
    action = await upload(target, Script("echo hello > out", output_paths=["out"]))
    results = [(await run_action(target, action)).result for _ in range(2)]
    assert results[0].output_files == results[1].output_files


async def test_exe_25_who_asks_for_the_same_has_a_stream_of_its_own(target: Target) -> None:
    action = await upload(target, Script(f"{RANDOM}; sleep 1", output_paths=["out"]))
    both = await asyncio.gather(*(ended(target, execute_request(target, action)) for _ in range(2)))
    assert both[0].name != both[1].name
    responses = [response_of(operation) for operation in both]
    assert output(responses[0], "out").digest == output(responses[1], "out").digest


async def test_exe_26_what_is_not_to_be_cached_runs_each_time(target: Target) -> None:
    script = Script(f"{RANDOM}; sleep 0.5", output_paths=["out"], action={"salt": fresh(16), "do_not_cache": True})
    action = await upload(target, script)
    responses = await asyncio.gather(*(run_or_hit(target, action) for _ in range(2)))
    responses.append(await run_or_hit(target, action))
    assert not any(response.cached_result for response in responses)
    assert len({output(response, "out").digest.hash for response in responses}) == 3


async def test_exe_27_what_no_worker_can_ever_run_is_refused(small: Target) -> None:
    platform = pb.Platform(properties=[{"name": "ISA", "value": "nope"}])
    response = await run(small, Script("true", action={"salt": fresh(16), "platform": platform}))
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    assert "ISA=nope" in response.status.message


async def test_exe_28_an_instance_that_executes_nothing_says_so(cache_only: Target) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        await started(cache_only, execute_request(cache_only, await upload(cache_only, Script("true"))))


async def test_exe_29_a_thousand_streams_are_kept_alive(target: Target) -> None:
    request = execute_request(target, await upload(target, Script("sleep 3")))
    request.skip_cache_lookup = False  # who comes late has the result at once
    last = await asyncio.gather(*(ended(target, request) for _ in range(STREAMS)))
    assert len({operation.name for operation in last}) == STREAMS
    assert {response_of(operation).result.exit_code for operation in last} == {0}


async def test_exe_30_a_stream_in_which_nothing_happens_repeats_itself(small: Target) -> None:
    began = time.monotonic()
    seen = await heard(small, Script("sleep 2.5"))
    assert time.monotonic() - began > 2.4
    stages = [metadata_of(operation).stage for operation in seen]
    assert stages.count(Stage.EXECUTING) >= 2


async def heard(target: Target, script: Script) -> list[operations_pb2.Operation]:
    """Execute *script*; return all that the stream says."""
    request = execute_request(target, await upload(target, script))
    return [operation async for operation in operations(target, request)]


async def operation_of(target: Target, name: str) -> operations_pb2.Operation:
    """Ask for the operation *name*."""
    request = operations_pb2.GetOperationRequest(name=name)
    return await target.unary("Operations/GetOperation", request, operations_pb2.Operation)
