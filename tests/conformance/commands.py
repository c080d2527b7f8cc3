"""Actions whose Command and input tree tests make themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import output, run_action
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.target import Target


def shell(text: str, **fields: Any) -> pb.Command:
    """Return a Command that runs *text* in a shell."""
    return pb.Command(arguments=["/bin/sh", "-c", text], **fields)


async def put(target: Target, message: pb.Action | pb.Command | pb.Directory) -> pb.Digest:
    """Upload *message*."""
    return await target.put(message.SerializeToString(deterministic=True))


async def tree(target: Target, files: Mapping[str, bytes]) -> pb.Digest:
    """Upload executable *files*, by their paths, and the directories that hold them; return the root."""
    directory = pb.Directory()
    below: dict[str, dict[str, bytes]] = {}
    for path, data in sorted(files.items()):
        name, delimiter, rest = path.partition("/")
        if delimiter:
            below.setdefault(name, {})[rest] = data
        else:
            directory.files.add(name=name, digest=await target.put(data), is_executable=True)
    for name, inside in sorted(below.items()):
        directory.directories.add(name=name, digest=await tree(target, inside))
    return await put(target, directory)


async def action_of(target: Target, command: pb.Command, inputs: Mapping[str, bytes] | None = None) -> pb.Digest:
    """Upload an Action, one that nobody has executed."""
    root = await tree(target, inputs or {})
    return await put(
        target, pb.Action(command_digest=await put(target, command), input_root_digest=root, salt=fresh(16))
    )


async def execute(target: Target, command: pb.Command, inputs: Mapping[str, bytes] | None = None) -> pb.ExecuteResponse:
    """Execute *command*, which must succeed."""
    response = await run_action(target, await action_of(target, command, inputs))
    assert (response.status.code, response.result.exit_code) == (0, 0), response
    return response


async def code_of(target: Target, action: pb.Digest) -> int:
    """Return the code with which the execution of *action* is refused, by the call or in its response."""
    try:
        return (await run_action(target, action)).status.code
    except grpc.aio.AioRpcError as error:
        code: int = error.code().value[0]
        return code


async def missing_of(target: Target, action: pb.Digest) -> set[str]:
    """Return the subjects of what is reported to be missing."""
    status = (await run_action(target, action)).status
    assert status.code == code_pb2.FAILED_PRECONDITION, status
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert {one.type for one in failure.violations} == {"MISSING"}
    return {one.subject for one in failure.violations}


def subject(digest: pb.Digest) -> str:
    """Return how a blob is named in what is missing."""
    return f"blobs/{digest.hash}/{digest.size_bytes}"


async def contents(target: Target, response: pb.ExecuteResponse, path: str) -> bytes:
    """Return what the output file *path* holds."""
    return await target.read(target.resource(output(response, path).digest))


async def files_of(target: Target, directory: pb.OutputDirectory) -> set[str]:
    """Return the paths of all files in an output directory."""
    found = pb.Tree.FromString(await target.read(target.resource(directory.tree_digest)))
    children = {digest_of(one.SerializeToString(deterministic=True)).hash: one for one in found.children}

    def walk(one: pb.Directory, prefix: str) -> set[str]:
        paths = {prefix + file.name for file in one.files}
        for node in one.directories:
            paths |= walk(children[node.digest.hash], f"{prefix}{node.name}/")
        return paths

    return walk(found.root, "")
