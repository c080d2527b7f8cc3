"""How what goes wrong is told (checklist ERR)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import (
    Script,
    cancel,
    execute_request,
    metadata_of,
    operations,
    output,
    response_of,
    run,
    run_action,
    started,
    upload,
    upload_action,
)
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.commands import action_of, code_of, missing_of, put, shell, subject, tree
from tests.conformance.results import get_result
from tests.conformance.small_grid import MAX_ATTEMPTS, MAX_QUEUED
from tests.conformance.target import Target, refused
from tests.journeys.grid import Grid

INVALID = code_pb2.INVALID_ARGUMENT
FAILURE_TYPE = "type.googleapis.com/google.rpc.PreconditionFailure"
TOO_LONG = "execution timeout exceeded"
#: What clients try again.
RETRIED = {
    code_pb2.CANCELLED,
    code_pb2.UNKNOWN,
    code_pb2.DEADLINE_EXCEEDED,
    code_pb2.RESOURCE_EXHAUSTED,
    code_pb2.ABORTED,
    code_pb2.INTERNAL,
    code_pb2.UNAVAILABLE,
    code_pb2.DATA_LOSS,
}


async def test_err_01_each_missing_blob_is_named(target: Target) -> None:
    command, file, below = (digest_of(fresh()) for _ in range(3))
    root = pb.Directory(files=[{"name": "f", "digest": file}], directories=[{"name": "d", "digest": below}])
    action = pb.Action(command_digest=command, input_root_digest=await put(target, root))
    assert await missing_of(target, await put(target, action)) == {subject(one) for one in (command, file, below)}


async def test_err_02_missing_blobs_are_the_only_detail(target: Target) -> None:
    status = (await run_action(target, await lacking(target, digest_of(fresh())))).status
    assert [detail.type_url for detail in status.details] == [FAILURE_TYPE]


async def test_err_03_what_is_missing_and_what_is_wrong_are_not_told_together(target: Target) -> None:
    wrong = await put(target, pb.Directory(files=[{"name": "..", "digest": digest_of(b"")}]))
    root = pb.Directory(
        files=[{"name": "f", "digest": digest_of(fresh())}], directories=[{"name": "d", "digest": wrong}]
    )
    status = (await run_action(target, await upload_action(target, Script("true"), await put(target, root)))).status
    assert status.code in (code_pb2.FAILED_PRECONDITION, INVALID)
    if status.code == code_pb2.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure()
        assert status.details[0].Unpack(failure)
        assert {one.type for one in failure.violations} == {"MISSING"}


async def test_err_04_a_thousand_missing_blobs_are_told_at_once(target: Target) -> None:
    absent = [digest_of(fresh()) for _ in range(1_000)]
    assert await missing_of(target, await lacking(target, *absent)) == {subject(one) for one in absent}


async def test_err_05_of_some_functions_the_name_is_in_the_subject(target: Target) -> None:
    if pb.DigestFunction.BLAKE3 not in target.capabilities.execution_capabilities.digest_functions:
        pytest.skip("not testable here: BLAKE3 is not offered")
    absent = digest_of(fresh(), "BLAKE3")
    root = pb.Directory(files=[{"name": "f", "digest": absent}])
    input_root = await target.put(root.SerializeToString(), "BLAKE3")
    action = await upload_action(target, Script("true"), input_root, function="BLAKE3")
    status = (await run_action(target, action, function="BLAKE3")).status
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert [one.subject for one in failure.violations] == [f"blobs/blake3/{absent.hash}/{absent.size_bytes}"]


async def test_err_06_a_timeout_is_told_in_the_response(target: Target) -> None:
    seen = [one async for one in operations(target, execute_request(target, await upload(target, slow("sleep 60"))))]
    assert response_of(seen[-1]).status.code == code_pb2.DEADLINE_EXCEEDED


async def test_err_07_what_there_was_at_the_timeout_is_in_the_result(target: Target) -> None:
    response = await run(target, slow("echo said; sleep 60"))
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED
    assert await target.read(target.resource(response.result.stdout_digest)) == b"said\n"


async def test_err_08_a_timeout_has_its_text(target: Target) -> None:
    assert (await run(target, slow("sleep 60"))).status.message == TOO_LONG


async def test_err_09_what_went_wrong_is_not_cached(target: Target) -> None:
    actions = [
        await lacking(target, digest_of(fresh())),
        await upload(target, slow("sleep 60")),
        await action_of(target, shell("true", working_directory="not/there")),
    ]
    for action in actions:
        assert await code_of(target, action) != code_pb2.OK
    cancelled = await upload(target, Script("sleep 60"))
    await cancel(target, await started(target, execute_request(target, cancelled)))
    for action in (*actions, cancelled):
        with refused(grpc.StatusCode.NOT_FOUND):
            await get_result(target, action)


async def test_err_10_a_command_that_fails_has_a_result(target: Target) -> None:
    response = await run(target, Script("echo 1 > out; echo said; echo sorry >&2; exit 3", output_paths=["out"]))
    result = response.result
    assert (response.status.code, result.exit_code) == (code_pb2.OK, 3)
    assert [file.path for file in result.output_files] == ["out"]
    assert await target.read(target.resource(result.stdout_digest)) == b"said\n"
    assert await target.read(target.resource(result.stderr_digest)) == b"sorry\n"


async def test_err_11_a_command_that_is_killed_has_the_signal_as_exit_code(target: Target) -> None:
    response = await run(target, Script("kill -9 $$"))
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 137)


@pytest.mark.parametrize(("program", "exit_code"), [("/nope", 127), ("./nope", 127), ("/etc/hostname", 126)])
async def test_err_12_a_program_that_cannot_be_started_is_told_of(target: Target, program: str, exit_code: int) -> None:
    response = await run_action(target, await action_of(target, pb.Command(arguments=[program])))
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, exit_code)
    assert program.rpartition("/")[2].encode() in await target.read(target.resource(response.result.stderr_digest))


async def test_err_13_an_action_whose_workers_die_ends_with_an_error_that_is_tried_again(
    small: Target, small_grid: Grid
) -> None:
    killed = 0
    well_again: asyncio.Task[None] | None = None
    async for operation in operations(small, execute_request(small, await upload(small, Script("sleep 2.5")))):
        if metadata_of(operation).stage == pb.ExecutionStage.EXECUTING and (well_again is None or well_again.done()):
            mark = small_grid.kill("worker")
            killed += 1
            well_again = asyncio.create_task(asyncio.to_thread(small_grid.wait_well_again, mark))
    assert well_again is not None
    await well_again
    response = response_of(operation)
    assert killed == MAX_ATTEMPTS
    assert response.status.code in (code_pb2.UNAVAILABLE, code_pb2.INTERNAL)
    assert "worker" in response.status.message


async def test_err_14_a_command_that_is_killed_for_its_memory_has_an_exit_code(target: Target) -> None:
    # Linux sends the same signal.
    response = await run(target, Script("(kill -9 $$) & sleep 60"))
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 137)


async def test_err_15_more_executions_than_allowed_are_refused(small: Target) -> None:
    """The small grid runs one action at a time, and has a short queue."""
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        await fill_the_queue(small)


async def test_err_16_a_timeout_that_is_too_long_is_invalid(target: Target) -> None:
    action = {"salt": fresh(16), "timeout": Duration(seconds=10 * 86_400)}
    assert await code_of(target, await upload(target, Script("true", action=action))) == INVALID


async def test_err_17_the_status_of_a_success_is_set(target: Target) -> None:
    response = await run(target, Script("true"))
    assert response.HasField("status")
    assert response.status.code == code_pb2.OK


async def test_err_18_a_success_has_a_result(target: Target) -> None:
    response = await run(target, Script("echo hello > out", output_paths=["out"]))
    assert response.HasField("result")
    assert output(response, "out").digest == digest_of(b"hello\n")


async def test_err_19_what_goes_wrong_is_told_in_words(target: Target) -> None:
    for action in (await lacking(target, digest_of(fresh())), await upload(target, slow("sleep 60"))):
        assert (await run_action(target, action)).status.message


async def test_err_20_who_may_try_again_is_told_when_and_nobody_else_is(small: Target) -> None:
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as full:
        await fill_the_queue(small)
    assert full.detail(error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() > 0
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as wrong:
        await started(small, execute_request(small, pb.Digest(hash="nonsense", size_bytes=1)))
    assert not any(isinstance(detail, error_details_pb2.RetryInfo) for detail in wrong.details)


async def fill_the_queue(small: Target) -> None:
    """Execute more than fits, which is refused before the last one; what was taken is cancelled.

    Raises:
        grpc.aio.AioRpcError: one is refused.
    """
    begun: list[operations_pb2.Operation] = []
    try:
        for _ in range(MAX_QUEUED + 2):
            action = await upload(small, Script("sleep 2.9"))
            begun.append(await started(small, execute_request(small, action)))
    finally:
        for operation in reversed(begun):
            await cancel(small, operation)
        await wait_for_room(small)


async def wait_for_room(small: Target) -> None:
    """Return when another action is taken: a queue that was full may not be counted again at once."""
    action = await upload(small, Script("true"))
    async with asyncio.timeout(20):
        while await code_of(small, action) == code_pb2.RESOURCE_EXHAUSTED:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)


async def garbage(target: Target) -> pb.Digest:
    return await target.put(b"\x0a\xff" + fresh(8))


async def no_digest(target: Target) -> pb.Digest:
    return pb.Digest(hash="nonsense", size_bytes=1)


async def no_command(target: Target) -> pb.Digest:
    return await put(target, pb.Action(command_digest=await garbage(target), input_root_digest=await tree(target, {})))


async def no_arguments(target: Target) -> pb.Digest:
    return await action_of(target, pb.Command())


async def bad_path(target: Target) -> pb.Digest:
    return await action_of(target, shell("true", output_paths=["/out"]))


async def bad_timeout(target: Target) -> pb.Digest:
    return await upload(target, Script("true", action={"salt": fresh(16), "timeout": Duration(seconds=-1)}))


async def no_tree(target: Target) -> pb.Digest:
    return await upload_action(target, Script("true"), await garbage(target))


async def no_directory(target: Target) -> pb.Digest:
    return await action_of(target, shell("true", working_directory="not/there"))


async def missing_input(target: Target) -> pb.Digest:
    return await lacking(target, digest_of(fresh()))


@pytest.mark.parametrize(
    "wrong",
    [
        garbage,
        no_digest,
        no_command,
        no_arguments,
        bad_path,
        bad_timeout,
        no_tree,
        no_directory,
        missing_input,
    ],
)
async def test_err_21_what_can_never_succeed_has_no_code_that_is_tried_again(
    target: Target, wrong: Callable[[Target], Awaitable[pb.Digest]]
) -> None:
    code = await code_of(target, await wrong(target))
    assert code not in {code_pb2.OK, *RETRIED}


async def test_err_21_inputs_that_no_worker_has_room_for_are_no_fault_of_the_moment(small: Target) -> None:
    """The small grid's worker has a small cache."""
    root = pb.Directory(files=[{"name": "large", "digest": pb.Digest(hash=digest_of(fresh()).hash, size_bytes=2**40)}])
    code = await code_of(small, await upload_action(small, Script("true"), await put(small, root)))
    assert code not in {code_pb2.OK, *RETRIED}


def slow(text: str) -> Script:
    """Return a script that has a second."""
    return Script(text, action={"salt": fresh(16), "timeout": Duration(seconds=1)})


async def lacking(target: Target, *absent: pb.Digest) -> pb.Digest:
    """Upload an action with inputs that are *absent*."""
    root = pb.Directory()
    for number, digest in enumerate(absent):
        root.files.add(name=f"{number:06}", digest=digest)
    return await upload_action(target, Script("true"), await put(target, root))
