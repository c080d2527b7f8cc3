"""What of executions is cached, how long they may take, and which are one (checklist POL)."""

from __future__ import annotations

import asyncio
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import (
    Script,
    ended,
    execute_request,
    output,
    response_of,
    run,
    run_action,
    upload,
)
from tests.conformance.blobs import fresh
from tests.conformance.results import get_result
from tests.conformance.small_grid import DEFAULT_TIMEOUT_SECONDS
from tests.conformance.target import Target, refused
from tests.journeys.grid import Grid, runs

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def salted(**fields: object) -> dict[str, object]:
    """Return fields of an Action that nobody has executed."""
    return {"salt": fresh(16), **fields}


def seconds(amount: int) -> Duration:
    return Duration(seconds=amount)


async def test_pol_01_a_success_is_cached(target: Target) -> None:
    action = await upload(target, Script("echo hello > out", output_paths=["out"]))
    response = await run_action(target, action)
    assert (await get_result(target, action)).output_files == response.result.output_files


async def test_pol_01_an_action_that_says_so_is_not_cached(target: Target) -> None:
    action = await upload(target, Script("true", action=salted(do_not_cache=True)))
    assert (await run_action(target, action)).status.code == 0
    with refused(NOT_FOUND):
        await get_result(target, action)


async def test_pol_02_a_failure_is_not_cached(target: Target) -> None:
    action = await upload(target, Script("exit 1"))
    response = await run_action(target, action)
    assert (response.status.code, response.result.exit_code) == (0, 1)
    with refused(NOT_FOUND):
        await get_result(target, action)


async def test_pol_03_a_success_that_lacks_a_declared_output_is_cached(target: Target) -> None:
    action = await upload(target, Script("echo hello > out", output_paths=["missing", "out"]))
    response = await run_action(target, action)
    assert (response.status.code, response.result.exit_code) == (0, 0)
    assert [file.path for file in (await get_result(target, action)).output_files] == ["out"]


async def test_pol_04_another_timeout_is_another_action(target: Target) -> None:
    salt = fresh(16)
    actions = [
        await upload(target, Script("true", action={"salt": salt, "timeout": seconds(amount)})) for amount in (10, 11)
    ]
    assert (await run_action(target, actions[0])).result.exit_code == 0
    with refused(NOT_FOUND):
        await get_result(target, actions[1])
    assert (await run_action(target, actions[1])).result.exit_code == 0
    for action in actions:
        await get_result(target, action)


async def test_pol_05_an_action_without_a_timeout_has_the_servers(small: Target) -> None:
    response = await run(small, Script(f"sleep {DEFAULT_TIMEOUT_SECONDS + 60}"))
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED


async def test_pol_06_the_timeout_does_not_count_in_the_queue(small: Target) -> None:
    """The small grid runs one action at a time."""
    first = await upload(small, Script("sleep 2.5"))
    second = await upload(small, Script("true", action=salted(timeout=seconds(2))))
    began = time.monotonic()
    responses = await asyncio.gather(run_action(small, first), run_action(small, second))
    assert time.monotonic() - began > 2.4
    assert [(one.status.code, one.result.exit_code) for one in responses] == [(0, 0), (0, 0)]


async def test_pol_07_a_timeout_of_0_is_none(target: Target) -> None:
    response = await run(target, Script("sleep 0.2", action=salted(timeout=Duration())))
    assert (response.status.code, response.result.exit_code) == (0, 0)


async def test_pol_07_a_timeout_of_0_is_the_servers(small: Target) -> None:
    response = await run(small, Script(f"sleep {DEFAULT_TIMEOUT_SECONDS + 60}", action=salted(timeout=Duration())))
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED


async def test_pol_08_a_negative_timeout_is_invalid(target: Target) -> None:
    action = await upload(target, Script("true", action=salted(timeout=seconds(-1))))
    try:
        code = (await run_action(target, action)).status.code
    except grpc.aio.AioRpcError as error:
        code = error.code().value[0]
    assert code == code_pb2.INVALID_ARGUMENT


async def test_pol_09_a_timeout_ends_all_processes_of_the_action(target: Target, own_grid: Grid) -> None:
    # Nobody else sleeps for so long.
    child = f"{1_000_000 + time.time_ns() % 1_000_000}"
    script = f"setsid sleep {child} & trap '' TERM; sleep 60; sleep 60"
    action = await upload(target, Script(script, action=salted(timeout=seconds(1))))
    executing = asyncio.create_task(run_action(target, action))
    while not runs(["sleep", child]):
        assert not executing.done(), executing.result()
        await asyncio.sleep(0.02)
    response = await executing
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED
    assert not runs(["sleep", child])


async def test_pol_10_another_salt_is_another_action(target: Target) -> None:
    script = "head -c 16 /dev/urandom > out"
    contents = set()
    actions = [await upload(target, Script(script, output_paths=["out"], action=salted())) for _ in range(2)]
    for action in actions:
        contents.add(output(await run_action(target, action), "out").digest.hash)
    assert len(contents) == 2
    assert {(await get_result(target, action)).output_files[0].digest.hash for action in actions} == contents


async def test_pol_11_who_waits_for_the_same_action_hears_the_same(target: Target) -> None:
    script = Script("head -c 16 /dev/urandom > out; sleep 1", output_paths=["out"])
    action = await upload(target, script)
    request = execute_request(target, action)
    request.skip_cache_lookup = False
    all_ended = await asyncio.gather(*(ended(target, request) for _ in range(4)))
    assert len({operation.name for operation in all_ended}) == 4
    responses = [response_of(operation) for operation in all_ended]
    assert [response.cached_result for response in responses] == [False] * 4
    for response in responses:
        # Each of them may have been queued at a time of its own.
        response.result.execution_metadata.ClearField("queued_timestamp")
    assert all(response == responses[0] for response in responses)


async def test_pol_12_a_result_is_cached_before_it_is_announced(target: Target) -> None:
    for number in range(5):
        action = await upload(target, Script(f"echo {number} > out", output_paths=["out"]))
        response = await _as_soon_as_it_is_done(target, action)
        assert (await get_result(target, action)).output_files == response.result.output_files


async def test_pol_13_outputs_are_there_before_a_result_is_announced(target: Target) -> None:
    text = "mkdir -p tree/below; for f in out tree/a tree/below/b; do head -c 3000000 /dev/urandom > $f; done; echo hi"
    for _ in range(3):
        action = await upload(target, Script(text, output_paths=["out", "tree"]))
        result = (await _as_soon_as_it_is_done(target, action)).result
        (directory,) = result.output_directories
        named = [*(file.digest for file in result.output_files), directory.tree_digest]
        if result.stdout_digest.hash:
            named.append(result.stdout_digest)
        assert await target.find_missing(named) == []
        tree = pb.Tree.FromString(await target.read(target.resource(directory.tree_digest)))
        inside = [file.digest for one in (tree.root, *tree.children) for file in one.files]
        assert len(inside) == 2
        assert await target.find_missing(inside) == []


async def _as_soon_as_it_is_done(target: Target, action: pb.Digest) -> pb.ExecuteResponse:
    """Return the response without waiting for the stream to end."""
    return response_of(await ended(target, execute_request(target, action), at_once=True))
