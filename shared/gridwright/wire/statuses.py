"""Errors become gRPC statuses here, and statuses of other services become errors again.

One table serves both directions. Rich details follow ``google.rpc``: PreconditionFailure
for missing blobs, BadRequest for a field, RetryInfo for a delay, ErrorInfo for the name of
the error where nothing else says it.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gridwright import errors
from gridwright.digest import Digest

Violation = error_details_pb2.PreconditionFailure.Violation

#: The trailer that holds a serialised google.rpc.Status.
DETAILS_KEY = "grpc-status-details-bin"
#: The domain of our ErrorInfo details.
DOMAIN = "gridwright"
#: Clients accept 8 KiB of trailers (checklist GRP-06). The text is in them twice, once with up to three
#: characters for a byte, and the details grow by a third on the way: these two leave 600 bytes for the rest.
_MAX_TEXT_BYTES = 700
_MAX_STATUS_BYTES = 4_000
#: A status in a response must leave room for the rest in the 4 MiB that clients accept. A client that is told of
#: some missing blobs uploads these, and hears of the others at the next try; the text says how many there are.
_MAX_DETAILS_BYTES = 2 * 1024 * 1024

#: The status of each error; a subclass without a row of its own has its parent's.
STATUSES: dict[type[errors.GridwrightError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownInstance: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidDigest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidResourceName: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.BlobNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ActionResultNotFound: grpc.StatusCode.NOT_FOUND,
    errors.OperationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MissingBlobs: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.BlobCorrupted: grpc.StatusCode.DATA_LOSS,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

#: How an error is rebuilt from the status of another service.
_ERRORS: dict[grpc.StatusCode, type[errors.GridwrightError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRange,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}
#: The tag and the length of a message inside another, of less than 16 KiB.
_ENVELOPE_BYTES = 4
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_TRANSIENT = (errors.ResourceExhausted, errors.Unavailable)


def status_code(error: errors.GridwrightError) -> grpc.StatusCode:
    """Return the gRPC status code of *error*."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def status_message(error: errors.GridwrightError) -> status_pb2.Status:
    """Return *error* as a google.rpc.Status for a field of a response, with as many violations as there is room for."""
    return _status(error, str(error), _within(_violations(error), _MAX_DETAILS_BYTES))


def trailer_status(error: errors.GridwrightError) -> status_pb2.Status:
    """Return *error* as a google.rpc.Status that fits in trailers, with as many violations as there is room for."""
    text = str(error).encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")
    room_bytes = _MAX_STATUS_BYTES - _status(error, text, []).ByteSize() - _ENVELOPE_BYTES
    return _status(error, text, _within(_violations(error), room_bytes))


def ok_status() -> status_pb2.Status:
    """Return the status of success, for per-blob answers."""
    return status_pb2.Status(code=code_pb2.OK)


def error_of_status(status: status_pb2.Status) -> errors.GridwrightError:
    """Return the error that *status*, of another service, tells of."""
    kind = _ERRORS.get(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), errors.InternalError)
    message = status.message or f"status {status.code} without a message"
    if issubclass(kind, _TRANSIENT):
        return kind(message, retry_after_seconds=_retry_after(status.details))
    return kind(message)


def error_of_call(error: grpc.aio.AioRpcError) -> errors.GridwrightError:
    """Return the error that a failed call to another service tells of."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return error_of_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    details = error.details() or ""
    if error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in details:
        # All that a proxy can do when it loses the service in the middle of its answer; no service says this itself.
        return errors.Unavailable(f"the connection to the service broke: {details}")
    return error_of_status(status_pb2.Status(code=error.code().value[0], message=details))


def missing_violation(digest: Digest) -> Violation:
    """Return the violation that asks a client to upload *digest* (checklist appendix A)."""
    return Violation(type="MISSING", subject=f"blobs/{digest}", description="upload this blob and execute again")


def _violations(error: errors.GridwrightError) -> Sequence[Violation]:
    return [missing_violation(digest) for digest in error.digests] if isinstance(error, errors.MissingBlobs) else []


def _within(violations: Sequence[Violation], room_bytes: int) -> Sequence[Violation]:
    """Return the first of *violations*, as many as fit."""
    for count, violation in enumerate(violations):
        room_bytes -= violation.ByteSize() + _ENVELOPE_BYTES
        if room_bytes < 0:
            return violations[:count]
    return violations


def _status(error: errors.GridwrightError, text: str, violations: Sequence[Violation]) -> status_pb2.Status:
    return status_pb2.Status(code=status_code(error).value[0], message=text, details=_details(error, text, violations))


def _details(error: errors.GridwrightError, text: str, violations: Sequence[Violation]) -> Sequence[AnyMessage]:
    details: list[Message] = []
    match error:
        case errors.MissingBlobs():
            # Clients re-upload only if this is the single detail (checklist appendix A, 5).
            details.append(error_details_pb2.PreconditionFailure(violations=violations))
        case errors.InvalidRequest(field=field) if field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
            details.append(_error_info(error))
        case errors.ResourceExhausted(retry_after_seconds=delay) | errors.Unavailable(retry_after_seconds=delay) if (
            delay is not None
        ):
            wait = Duration()
            wait.FromNanoseconds(int(delay * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=wait))
        case errors.FailedPrecondition():
            pass  # a foreign detail would keep Bazel from reading the text (checklist ERR)
        case _:
            details.append(_error_info(error))
    packed = []
    for detail in details:
        box = AnyMessage()
        box.Pack(detail)
        packed.append(box)
    return packed


def _error_info(error: errors.GridwrightError) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=_screaming_snake(type(error).__name__), domain=DOMAIN)


def _screaming_snake(name: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() and index else letter for index, letter in enumerate(name)).upper()


def _retry_after(details: Sequence[AnyMessage]) -> float | None:
    for detail in details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None
