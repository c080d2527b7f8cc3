"""One sound call of every method that names an instance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc
import pytest
from google.longrunning import operations_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, cancel, execute_request, started, upload
from tests.conformance.blobs import digest_of
from tests.conformance.target import Target

HELLO = b"hello"
_ACTION = digest_of(pb.Action(salt=b"every call").SerializeToString())


async def _find_missing(target: Target) -> None:
    await target.find_missing([digest_of(HELLO)])


async def _update(target: Target) -> None:
    await target.update([HELLO])


async def _batch_read(target: Target) -> None:
    await target.batch_read([digest_of(HELLO)])


async def _get_tree(target: Target) -> None:
    request = pb.GetTreeRequest(instance_name=target.instance, root_digest=digest_of(b""))
    with _answer(grpc.StatusCode.NOT_FOUND):
        async for _ in target.streamed("ContentAddressableStorage/GetTree", request, pb.GetTreeResponse):
            pass


async def _read(target: Target) -> None:
    with _answer(grpc.StatusCode.NOT_FOUND):
        await target.read(target.resource(digest_of(HELLO)))


async def _write(target: Target) -> None:
    await target.write(target.upload_name(digest_of(HELLO)), [HELLO])


async def _query(target: Target) -> None:
    try:
        await target.query(target.upload_name(digest_of(HELLO)))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip("not testable here: there is no such method, which is for BSQ to say")
        raise


async def _get_result(target: Target) -> None:
    request = pb.GetActionResultRequest(instance_name=target.instance, action_digest=_ACTION)
    with _answer(grpc.StatusCode.NOT_FOUND):
        await target.unary("ActionCache/GetActionResult", request, pb.ActionResult)


async def _update_result(target: Target) -> None:
    request = pb.UpdateActionResultRequest(
        instance_name=target.instance,
        action_digest=_ACTION,
        action_result=pb.ActionResult(stdout_digest=digest_of(HELLO)),
    )
    await target.unary("ActionCache/UpdateActionResult", request, pb.ActionResult)


async def _execute(target: Target) -> None:
    # The Action was not uploaded.
    with _answer(grpc.StatusCode.FAILED_PRECONDITION):
        await started(target, execute_request(target, _ACTION))


async def _capabilities(target: Target) -> None:
    await target.ask_capabilities()


async def operations_of(target: Target) -> None:
    """Call the methods that name an operation."""
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 60"))))
    found = await target.unary(
        "Operations/GetOperation", operations_pb2.GetOperationRequest(name=operation.name), operations_pb2.Operation
    )
    assert found.name == operation.name
    waiting = pb.WaitExecutionRequest(name=operation.name)
    async for again in target.streamed("Execution/WaitExecution", waiting, operations_pb2.Operation):
        assert again.name == operation.name
        break
    await cancel(target, operation)


#: By method; each returns if the call is answered, also where the answer is that something is not there.
CALLS: Mapping[str, Callable[[Target], Awaitable[None]]] = {
    "GetCapabilities": _capabilities,
    "FindMissingBlobs": _find_missing,
    "BatchUpdateBlobs": _update,
    "BatchReadBlobs": _batch_read,
    "GetTree": _get_tree,
    "Read": _read,
    "Write": _write,
    "QueryWriteStatus": _query,
    "GetActionResult": _get_result,
    "UpdateActionResult": _update_result,
    "Execute": _execute,
}


@contextmanager
def _answer(code: grpc.StatusCode) -> Iterator[None]:
    """Take a refusal with *code* for an answer."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not code:
            raise
