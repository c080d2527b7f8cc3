"""Results that tests keep in the action cache and ask for."""

from __future__ import annotations

from typing import Any

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.target import Target


def an_action() -> pb.Digest:
    """Return the digest of an action that nobody has heard of."""
    return digest_of(fresh())


def a_result(**fields: Any) -> pb.ActionResult:
    """Return a result with metadata, as results of executions have them."""
    return pb.ActionResult(execution_metadata=pb.ExecutedActionMetadata(worker="conformance"), **fields)


async def get_result(target: Target, action: pb.Digest, **fields: Any) -> pb.ActionResult:
    """Ask for the result of *action*; *fields* are more fields of the request.

    Raises:
        grpc.aio.AioRpcError: it is refused, or not there.
    """
    request = pb.GetActionResultRequest(instance_name=target.instance, action_digest=action, **fields)
    return await target.unary("ActionCache/GetActionResult", request, pb.ActionResult)


async def update_result(target: Target, action: pb.Digest, result: pb.ActionResult, **fields: Any) -> pb.ActionResult:
    """Keep *result* as that of *action*; *fields* are more fields of the request.

    Raises:
        grpc.aio.AioRpcError: it is refused.
    """
    request = pb.UpdateActionResultRequest(
        instance_name=target.instance, action_digest=action, action_result=result, **fields
    )
    return await target.unary("ActionCache/UpdateActionResult", request, pb.ActionResult)
