"""Actions, from a client through Envoy, scheduler and worker, and back."""

import asyncio
import random
from uuid import uuid4

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient, ExecutionClient
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.wire.digests import digest_message
from tests.journeys.build_client import Action, BuildClient, build_client
from tests.journeys.grid import Grid

SHA256 = DigestFunction.SHA256


def shell(script: str, *outputs: str, **inputs: bytes) -> Action:
    """A shell action; a comment makes it one that was never run before."""
    return Action(["/bin/sh", "-c", f"{script} # {uuid4()}"], inputs, outputs)


async def test_an_action_turns_inputs_into_outputs(client: BuildClient) -> None:
    data = random.randbytes(10_000)
    response = await client.execute(
        shell("cat one two > three; echo said; echo warned >&2", "three", one=data, two=b"!")
    )
    assert (response.status.code, response.result.exit_code, response.cached_result) == (code_pb2.OK, 0, False)
    [output] = response.result.output_files
    assert output.path == "three"
    assert output.digest == digest_message(SHA256.digest(data + b"!"))
    assert await client.read(SHA256.digest(data + b"!")) == data + b"!"
    assert await client.stdout(response.result) == b"said\n"
    assert await client.stderr(response.result) == b"warned\n"
    assert response.result.execution_metadata.worker
    assert client.stages[-1] == pb.ExecutionStage.COMPLETED


async def test_the_second_time_the_result_comes_from_the_cache(client: BuildClient) -> None:
    action = shell("date +%s%N > now", "now")
    first = await client.execute(action)
    second = await client.execute(action)
    assert (first.cached_result, second.cached_result) == (False, True)
    assert second.result.output_files == first.result.output_files
    digest, _ = action.documents()
    request = pb.GetActionResultRequest(instance_name="main", action_digest=digest_message(digest))
    cached = await ActionCacheClient(client.channel).get_action_result(request, timeout=30)
    assert cached.output_files == first.result.output_files


async def test_who_skips_the_cache_gets_a_new_run(client: BuildClient) -> None:
    action = shell("date +%s%N > now", "now")
    first = await client.execute(action)
    second = await client.execute(action, skip_cache=True)
    assert not second.cached_result
    assert second.result.output_files != first.result.output_files


async def test_a_failure_has_its_exit_code_and_is_not_cached(client: BuildClient) -> None:
    action = shell("echo partial > out; exit 7", "out")
    for response in (await client.execute(action), await client.execute(action)):
        assert (response.status.code, response.result.exit_code, response.cached_result) == (code_pb2.OK, 7, False)
        assert [file.path for file in response.result.output_files] == ["out"]


async def test_directories_come_back_as_trees(client: BuildClient) -> None:
    response = await client.execute(
        shell("mkdir -p d/sub d/empty; echo x > d/sub/x; ln -s sub/x d/l; chmod +x d/sub/x", "d")
    )
    [output] = response.result.output_directories
    tree = pb.Tree.FromString(await client.read(Digest(SHA256, output.tree_digest.hash, output.tree_digest.size_bytes)))
    assert [node.name for node in tree.root.directories] == ["empty", "sub"]
    assert [(link.name, link.target) for link in tree.root.symlinks] == [("l", "sub/x")]
    assert [(file.name, file.is_executable) for child in tree.children for file in child.files] == [("x", True)]


async def test_an_action_sees_its_environment_and_nothing_of_ours(client: BuildClient) -> None:
    response = await client.execute(shell("env"))
    names = {line.partition(b"=")[0] for line in (await client.stdout(response.result)).splitlines()}
    assert b"PATH" in names
    assert names <= {b"PATH", b"PWD", b"OLDPWD", b"SHLVL", b"_", b"TMPDIR", b"HOME", b"TEMP", b"TMP", b"USER"}


async def test_two_clients_that_ask_for_one_action_share_a_run(grid: Grid, client: BuildClient) -> None:
    action = shell("date +%s%N > now; sleep 0.5", "now")
    async with build_client(grid.endpoint) as other:
        one, two = await asyncio.gather(client.execute(action), other.execute(action))
    assert one.result.output_files == two.result.output_files


async def test_an_operation_can_be_watched_by_its_name_while_and_after_it_runs(client: BuildClient) -> None:
    action, blobs = shell("sleep 1; echo end").documents()
    await client.upload(blobs)
    execution = ExecutionClient(client.channel)
    request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(action))
    name = ""
    async for operation in execution.execute(request, timeout=30):
        name = operation.name
        assert not operation.done
        break
    assert "main" in name
    for _ in range(2):
        seen = [
            operation async for operation in execution.wait_execution(pb.WaitExecutionRequest(name=name), timeout=30)
        ]
        assert seen[-1].done
        response = pb.ExecuteResponse()
        assert seen[-1].response.Unpack(response)
        assert await client.stdout(response.result) == b"end\n"


async def test_a_cancelled_operation_ends_as_cancelled(client: BuildClient) -> None:
    action, blobs = shell("sleep 60").documents()
    await client.upload(blobs)
    request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(action))
    response = pb.ExecuteResponse()
    asked = False
    async with asyncio.timeout(30):
        async for operation in ExecutionClient(client.channel).execute(request, timeout=30):
            metadata = pb.ExecuteOperationMetadata()
            operation.metadata.Unpack(metadata)
            if metadata.stage == pb.ExecutionStage.EXECUTING and not asked:
                asked = True
                cancel = operations_pb2.CancelOperationRequest(name=operation.name)
                await OperationsClient(client.channel).cancel_operation(cancel, timeout=30)
            if operation.done:
                operation.response.Unpack(response)
    assert response.status.code == code_pb2.CANCELLED


@pytest.mark.parametrize("function", [DigestFunction.BLAKE3, DigestFunction.SHA1])
async def test_an_action_may_use_another_digest_function(client: BuildClient, function: DigestFunction) -> None:
    def kept(message: pb.Command | pb.Action) -> tuple[Digest, bytes]:
        data = message.SerializeToString(deterministic=True)
        return function.digest(data), data

    command = pb.Command(arguments=["/bin/sh", "-c", f"echo made > out # {uuid4()}"], output_paths=["out"])
    command_digest, command_bytes = kept(command)
    action = pb.Action(command_digest=digest_message(command_digest), input_root_digest=digest_message(function.empty))
    action_digest, action_bytes = kept(action)
    await client.upload({command_digest: command_bytes, action_digest: action_bytes})
    request = pb.ExecuteRequest(
        instance_name="main",
        action_digest=digest_message(action_digest),
        digest_function=int(function),  # type: ignore[arg-type]  # the same numbers
    )
    response = pb.ExecuteResponse()
    async for operation in ExecutionClient(client.channel).execute(request, timeout=60):
        if operation.done:
            operation.response.Unpack(response)
    assert (response.status.code, response.status.message) == (code_pb2.OK, "")
    assert [file.digest.hash for file in response.result.output_files] == [function.digest(b"made\n").hash]
