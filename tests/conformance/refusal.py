"""How an endpoint refuses a call, as its caller sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

D = TypeVar("D", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"
_KINDS: Sequence[type[Message]] = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.RetryInfo,
)


@dataclass
class Refusal:
    """What a refused call said; empty until the call has been refused."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    #: The trailers as they came.
    trailers: Sequence[tuple[str, str | bytes]] = ()
    #: The embedded google.rpc.Status; None if there is none.
    status: status_pb2.Status | None = None
    #: Its details of the kinds that google.rpc defines, unpacked.
    details: list[Message] = field(default_factory=list)

    def detail(self, kind: type[D]) -> D:
        """Return the one detail of *kind*."""
        (found,) = [one for one in self.details if isinstance(one, kind)]
        return found

    def fill(self, error: grpc.aio.AioRpcError) -> None:
        """Take over what *error* says."""
        self.code, self.message = error.code(), error.details() or ""
        self.trailers = tuple(error.trailing_metadata() or ())
        embedded = next((value for key, value in self.trailers if key == _DETAILS_KEY), None)
        if isinstance(embedded, bytes):
            self.status = status_pb2.Status.FromString(embedded)
            self.details = [one for kind in _KINDS for one in _unpacked(self.status, kind)]


@contextmanager
def refused(*codes: grpc.StatusCode) -> Iterator[Refusal]:
    """Fail unless the block's call is refused with one of *codes*; what it said is in the Refusal afterwards."""
    refusal = Refusal()
    wanted = ", ".join(code.name for code in codes)
    try:
        yield refusal
    except grpc.aio.AioRpcError as error:
        refusal.fill(error)
    else:
        raise AssertionError(f"answered, and not refused with {wanted}")
    assert refusal.code in codes, f"refused with {refusal.code.name} ({refusal.message}), not with {wanted}"


def _unpacked(status: status_pb2.Status, kind: type[Message]) -> Iterator[Message]:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            yield detail
