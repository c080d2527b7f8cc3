"""Actions that tests execute: a shell script, its inputs, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import fresh
from tests.conformance.target import Metadata, Target

#: How long an action may take that does next to nothing; at an endpoint without workers, it takes for ever.
RUN_SECONDS = 25.0


@dataclass(frozen=True)
class Script:
    """What one action does."""

    text: str
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    output_paths: Sequence[str] = ()
    #: More fields of the Command.
    command: Mapping[str, Any] = field(default_factory=dict)
    #: More fields of the Action. The salt makes it one that nobody has executed.
    action: Mapping[str, Any] = field(default_factory=lambda: {"salt": fresh(16)})


async def upload(target: Target, script: Script, *, function: str = "SHA256") -> pb.Digest:
    """Upload all that *script* needs; return the digest of its Action."""
    root = pb.Directory()
    for name, data in sorted(script.inputs.items()):
        root.files.add(name=name, digest=await target.put(data, function))
    return await upload_action(target, script, await _put_message(target, root, function), function=function)


async def upload_action(
    target: Target, script: Script, input_root: pb.Digest, *, function: str = "SHA256"
) -> pb.Digest:
    """Upload the Command and the Action of *script*, whose input root is there; return the digest of the Action."""
    command = pb.Command(
        arguments=["/bin/sh", "-c", script.text], output_paths=sorted(script.output_paths), **script.command
    )
    command_digest = await _put_message(target, command, function)
    action = pb.Action(command_digest=command_digest, input_root_digest=input_root, **script.action)
    return await _put_message(target, action, function)


async def _put_message(target: Target, message: Message, function: str) -> pb.Digest:
    return await target.put(message.SerializeToString(deterministic=True), function)


def execute_request(target: Target, action: pb.Digest, *, function: str = "SHA256") -> pb.ExecuteRequest:
    """Return the request that executes *action*, whatever is cached."""
    return pb.ExecuteRequest(
        instance_name=target.instance, action_digest=action, skip_cache_lookup=True, digest_function=function
    )


def operations(
    target: Target, request: pb.ExecuteRequest, *, metadata: Metadata = (), timeout: float = RUN_SECONDS
) -> AsyncIterator[operations_pb2.Operation]:
    """Yield what Execute says of its operation."""
    return target.streamed("Execution/Execute", request, operations_pb2.Operation, metadata=metadata, timeout=timeout)


async def started(target: Target, request: pb.ExecuteRequest, *, metadata: Metadata = ()) -> operations_pb2.Operation:
    """Return the operation of *request* as it is at first; it goes on by itself."""
    async for operation in operations(target, request, metadata=metadata):
        return operation
    raise AssertionError("Execute ended without an operation")


async def cancel(target: Target, operation: operations_pb2.Operation) -> None:
    """Cancel *operation*."""
    request = operations_pb2.CancelOperationRequest(name=operation.name)
    await target.unary("Operations/CancelOperation", request, Empty)


async def run(target: Target, script: Script, *, function: str = "SHA256") -> pb.ExecuteResponse:
    """Execute *script* to its end.

    An endpoint other than our own grid may have no worker; then there is nothing to be learnt here.
    """
    return await run_action(target, await upload(target, script, function=function), function=function)


async def run_action(target: Target, action: pb.Digest, *, function: str = "SHA256") -> pb.ExecuteResponse:
    """Execute the uploaded *action* to its end."""
    return response_of(await ended(target, execute_request(target, action, function=function)))


async def ended(target: Target, request: pb.ExecuteRequest, *, at_once: bool = False) -> operations_pb2.Operation:
    """Return the last operation of what Execute says, or the first one that is done if *at_once*."""
    last = operations_pb2.Operation()
    try:
        async with asyncio.timeout(RUN_SECONDS):
            async for operation in operations(target, request, timeout=RUN_SECONDS + 5):
                last = operation
                if at_once and last.done:
                    break
    except TimeoutError:
        if target.kind == "endpoint" and not _is_executing(last):
            pytest.skip("not testable here: no worker took the action")
        raise
    return last


def response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    """Return the response in an operation that is done."""
    response = pb.ExecuteResponse()
    assert operation.done, operation
    assert operation.response.Unpack(response), operation
    return response


def _is_executing(operation: operations_pb2.Operation) -> bool:
    metadata = pb.ExecuteOperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata.stage == pb.ExecutionStage.EXECUTING


def output(response: pb.ExecuteResponse, path: str) -> pb.OutputFile:
    """Return the output file *path* of an action that succeeded."""
    assert (response.status.code, response.result.exit_code) == (0, 0), response
    (found,) = [file for file in response.result.output_files if file.path == path]
    return found


async def run_or_hit(target: Target, action: pb.Digest) -> pb.ExecuteResponse:
    """Execute *action* unless its result is cached."""
    request = execute_request(target, action)
    request.skip_cache_lookup = False
    return response_of(await ended(target, request))


async def wait_for(target: Target, name: str) -> operations_pb2.Operation:
    """Return the last that WaitExecution says of the operation *name*."""
    request = pb.WaitExecutionRequest(name=name)
    last = operations_pb2.Operation()
    async for last in target.streamed("Execution/WaitExecution", request, operations_pb2.Operation):
        assert last.name == name
    return last


def metadata_of(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    """Return the metadata in *operation*."""
    metadata = pb.ExecuteOperationMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata
