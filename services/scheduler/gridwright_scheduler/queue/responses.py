"""The ExecuteResponses in which clients learn how their action ended, as bytes to be stored."""

from __future__ import annotations

from collections.abc import Sequence

from google.rpc import code_pb2, status_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: siso takes DEADLINE_EXCEEDED for a fault of the grid unless the text is this one (checklist ERR-08).
TIMEOUT_MESSAGE = "execution timeout exceeded"


def executed(
    result: pb.ActionResult,
    *,
    worker: str,
    queued_at: float,
    code: int = code_pb2.OK,
    message: str = "",
    failures: Sequence[str] = (),
) -> pb.ExecuteResponse:
    """Return the answer with a result that a worker made; *code* is not OK if the result is a partial one.

    *failures* are the attempts that came to nothing before; the client may want to know.
    """
    response = pb.ExecuteResponse(result=result, status=_status(code, message))
    metadata = response.result.execution_metadata
    metadata.worker = metadata.worker or worker
    metadata.queued_timestamp.FromNanoseconds(int(queued_at * 1e9))
    if failures:
        response.message = f"succeeded at attempt {len(failures) + 1}; before, " + "; ".join(failures)
    return response


def from_cache(result: pb.ActionResult) -> bytes:
    """Return the answer with a result of the action cache, whose metadata stay those of its making (EMD-08)."""
    return pb.ExecuteResponse(result=result, cached_result=True, status=_status(code_pb2.OK)).SerializeToString()


def failed(code: int, message: str) -> bytes:
    """Return the answer without a result."""
    return refused(status_pb2.Status(code=code, message=message))


def refused(status: status_pb2.Status) -> bytes:
    """Return the answer without a result, with all that *status* has to say."""
    return pb.ExecuteResponse(status=status).SerializeToString()


#: What becomes of an operation that is cancelled; never Operation.error (checklist OPS-04).
CANCELLED = failed(code_pb2.CANCELLED, "the operation was cancelled")


def _status(code: int, message: str = "") -> status_pb2.Status:
    # Set also when it is OK, for clients that look whether it is there (ERR-17).
    text = TIMEOUT_MESSAGE if code == code_pb2.DEADLINE_EXCEEDED else message
    return status_pb2.Status(code=code, message=text)
