"""Errors and the statuses that they become: one table, both ways, with details that clients act on."""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gridwright import errors
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.wire.call import Call
from gridwright.wire.server import serving
from gridwright.wire.statuses import (
    DETAILS_KEY,
    STATUSES,
    error_of_status,
    missing_violation,
    ok_status,
    status_code,
    status_message,
)
from tests.shared.probe import Probe, ProbeByteStream, options

Detail = TypeVar("Detail", bound=Message)
DIGEST = DigestFunction.SHA256.digest(b"blob")

EXAMPLES: list[errors.GridwrightError] = [
    errors.InvalidRequest("no", field="name"),
    errors.UnknownInstance("x", ["main"]),
    errors.InvalidDigest("no digest"),
    errors.InvalidResourceName("a/b", "no"),
    errors.DigestMismatch("other bytes"),
    errors.NotFound("nothing"),
    errors.BlobNotFound(DIGEST),
    errors.ActionResultNotFound(DIGEST),
    errors.OperationNotFound("op"),
    errors.OutOfRange("too far"),
    errors.FailedPrecondition("not now"),
    errors.MissingBlobs([DIGEST]),
    errors.Unauthenticated("who"),
    errors.PermissionDenied("no"),
    errors.ResourceExhausted("full"),
    errors.Unavailable("down"),
    errors.DeadlineExceeded("late"),
    errors.Aborted("race"),
    errors.Unimplemented("not here"),
    errors.Cancelled("given up"),
    errors.BlobCorrupted(DIGEST),
    errors.InternalError("fault"),
]


def family(root: type[errors.GridwrightError] = errors.GridwrightError) -> Iterator[type[errors.GridwrightError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from family(kind)


def detail(status: status_pb2.Status, kind: type[Detail]) -> Detail:
    """Return the one detail of *kind*."""
    (found,) = [any_ for any_ in status.details if any_.TypeName() == kind.DESCRIPTOR.full_name]
    message = kind()
    assert found.Unpack(message)
    return message


def test_every_error_of_the_family_has_a_row_and_an_example() -> None:
    public = {kind for kind in family() if not kind.__name__.startswith("_")}
    assert public == set(STATUSES)
    assert public == {type(example) for example in EXAMPLES}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for kind in STATUSES:
        assert re.search(rf"── {kind.__name__}\b", errors.__doc__), kind


def test_an_error_of_a_service_has_the_row_of_its_parent() -> None:
    class QueueFull(errors.ResourceExhausted):
        pass

    assert status_code(QueueFull("full")) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_its_kind_with_its_text(error: errors.GridwrightError) -> None:
    status = status_message(error)
    again = error_of_status(status)
    assert str(again) == str(error)
    if not isinstance(error, errors.BlobCorrupted):
        assert isinstance(error, type(again))
        assert status_code(again) is status_code(error)


def test_rot_in_another_service_is_a_fault_that_is_not_ours_to_name() -> None:
    assert type(error_of_status(status_message(errors.BlobCorrupted(DIGEST)))) is errors.InternalError


@pytest.mark.parametrize("code", [code_pb2.UNKNOWN, code_pb2.DATA_LOSS, code_pb2.INTERNAL, 99])
def test_a_status_that_no_error_of_ours_has_is_internal(code: int) -> None:
    error = error_of_status(status_pb2.Status(code=code))
    assert type(error) is errors.InternalError
    assert str(error) == f"status {code} without a message"


def test_missing_blobs_are_the_only_detail_and_nothing_but_missing() -> None:
    """ERR-01, ERR-02, ERR-03, ERR-05."""
    blake3 = DigestFunction.BLAKE3.digest(b"blob")
    status = status_message(errors.MissingBlobs([DIGEST, blake3]))
    assert status.code == code_pb2.FAILED_PRECONDITION
    assert [any_.type_url for any_ in status.details] == ["type.googleapis.com/google.rpc.PreconditionFailure"]
    violations = detail(status, error_details_pb2.PreconditionFailure).violations
    assert {(one.type, one.subject) for one in violations} == {
        ("MISSING", f"blobs/{DIGEST.hash}/4"),
        ("MISSING", f"blobs/blake3/{blake3.hash}/4"),
    }
    assert missing_violation(DIGEST).type == "MISSING"


def test_a_status_in_a_response_leaves_room_for_the_rest_and_says_how_many_are_missing() -> None:
    missing = errors.MissingBlobs([DigestFunction.SHA256.digest(b"%d" % number) for number in range(30_000)])
    status = status_message(missing)
    named = detail(status, error_details_pb2.PreconditionFailure).violations
    assert 1.9 * 2**20 < status.ByteSize() < 2 * 2**20 + 1_000
    assert len(named) > 10_000
    assert "30000 inputs missing" in status.message


def test_a_status_in_a_response_names_all_missing_blobs() -> None:
    """ERR-04."""
    digests = [DigestFunction.SHA256.digest(str(number).encode()) for number in range(1000)]
    status = status_message(errors.MissingBlobs(digests))
    assert len(detail(status, error_details_pb2.PreconditionFailure).violations) == 1000


def test_a_wrong_field_is_named() -> None:
    status = status_message(errors.InvalidRequest("must be positive", field="read_offset"))
    (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("read_offset", "must be positive")
    assert detail(status, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"


def test_the_error_is_named_where_nothing_else_says_it() -> None:
    info = detail(status_message(errors.ActionResultNotFound(DIGEST)), error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("ACTION_RESULT_NOT_FOUND", "gridwright")


@pytest.mark.parametrize("kind", [errors.ResourceExhausted, errors.Unavailable])
def test_a_delay_travels(kind: type[errors.ResourceExhausted | errors.Unavailable]) -> None:
    """ERR-20."""
    status = status_message(kind("later", retry_after_seconds=1.25))
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1250
    again = error_of_status(status)
    assert isinstance(again, kind)
    assert again.retry_after_seconds == 1.25


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_without_a_delay_asks_for_no_retry(error: errors.GridwrightError) -> None:
    """ERR-20: Bazel tries again whatever has a RetryInfo."""
    details = status_message(error).details
    assert not any("RetryInfo" in any_.type_url for any_ in details)


def test_success_is_a_status_too() -> None:
    assert ok_status() == status_pb2.Status(code=0)


async def trailers_of(error: Exception) -> tuple[grpc.aio.AioRpcError, int]:
    """Return the failed call of a servicer that raises *error*, and the size of its trailers on the wire."""

    async def fail(call: Call) -> None:
        raise error

    probe = Probe()
    probe.act = fail
    async with (
        serving([ProbeByteStream(probe)], options()) as (port,),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/google.bytestream.ByteStream/QueryWriteStatus"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(bs.QueryWriteStatusRequest().SerializeToString(), timeout=5)
    # As it travels: percent-encoded text, base64 for bytes (Java and proxies), and 32 bytes for each header.
    size = len("grpc-message") + len(quote(caught.value.details() or "", safe=string.printable)) + 32
    for key, value in caught.value.trailing_metadata() or ():
        size += 32 + len(key) + (len(base64.b64encode(value)) if isinstance(value, bytes) else len(value))
    return caught.value, size


def status_in(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    (value,) = [value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY]
    assert isinstance(value, bytes)
    return status_pb2.Status.FromString(value)


@pytest.mark.parametrize("function", [DigestFunction.SHA256, DigestFunction.SHA512])
async def test_trailers_stay_below_what_clients_accept_whatever_is_missing(function: DigestFunction) -> None:
    """GRP-06: 8 KiB, above which clients see a broken stream instead of the error."""
    digests = [function.digest(str(number).encode()) for number in range(1000)]
    error, size = await trailers_of(errors.MissingBlobs(digests))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert size < 8192
    violations = detail(status_in(error), error_details_pb2.PreconditionFailure).violations
    assert len(violations) >= 15
    assert (error.details() or "").startswith("1000 inputs missing")


async def test_trailers_stay_below_what_clients_accept_whatever_the_text() -> None:
    for error in (errors.InvalidRequest("ü" * 20_000, field="x" * 200), errors.NotFound("\n" * 20_000)):
        failed, size = await trailers_of(error)
        assert size < 8192
        assert failed.code() is status_code(error)
        assert len(failed.details() or "") >= 300


async def test_the_trailer_and_the_status_of_a_call_agree() -> None:
    error, _ = await trailers_of(errors.OutOfRange("offset 7 is beyond the end"))
    status = status_in(error)
    assert status.code == code_pb2.OUT_OF_RANGE
    assert status.message == error.details() == "offset 7 is beyond the end"


def test_errors_carry_what_they_are_about() -> None:
    many = [Digest(DigestFunction.SHA256, f"{number:064x}", number) for number in range(5)]
    missing = errors.MissingBlobs([*many, *many])
    assert missing.digests == tuple(many)
    assert str(missing).startswith("5 inputs missing from the CAS: ")
    assert str(missing).endswith(" and 2 more")
    assert errors.BlobNotFound(DIGEST).digest == DIGEST
    assert "'main', 'b'" in str(errors.UnknownInstance("x", ["main", "b"]))
