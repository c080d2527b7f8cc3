"""What the end of a lease means: an answer for the client, or another attempt."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from google.rpc import code_pb2


class LeaseEnd(NamedTuple):
    """How a bot says that a lease ended."""

    #: google.rpc.Code of the lease's status.
    code: int
    #: The exit code of the result; None: the lease has no result.
    exit_code: int | None
    #: Whether the status names missing blobs, as workers of ours do, or one, as the stock runner does.
    names_missing_blobs: bool
    #: Whether the bot said that it is shutting down.
    terminating: bool


class Verdict(Enum):
    """What is to be done about an ended lease."""

    #: The result, with the lease's status, is the client's answer.
    DELIVER = auto()
    #: The result is the client's answer, and its status is OK whatever the lease's says.
    DELIVER_AS_OK = auto()
    #: The bot found inputs missing: look for all that are missing, and tell the client.
    CHECK_INPUTS = auto()
    #: Try again; this was one of the attempts.
    RETRY = auto()
    #: Try again; nobody is to blame.
    RETRY_UNCOUNTED = auto()


#: A fault of the worker or its host, of which another attempt knows nothing.
_TRANSIENT = frozenset(
    {
        code_pb2.CANCELLED,
        code_pb2.UNKNOWN,
        code_pb2.RESOURCE_EXHAUSTED,
        code_pb2.ABORTED,
        code_pb2.INTERNAL,
        code_pb2.UNAVAILABLE,
        code_pb2.DATA_LOSS,
    }
)


def judge(end: LeaseEnd) -> Verdict:
    """Return what *end* means, by the codes that workers are known to send (checklist BOT-10, ERR-06 to ERR-14)."""
    match end.code:
        case code_pb2.OK:
            # A worker that reports success without a result is broken.
            return Verdict.RETRY if end.exit_code is None else Verdict.DELIVER
        case code_pb2.NOT_FOUND if end.exit_code:
            # The stock runner's "no such file" for the command itself, with exit code 127: the user's error (ERR-12).
            return Verdict.DELIVER_AS_OK
        case code_pb2.NOT_FOUND:
            return Verdict.CHECK_INPUTS
        case code_pb2.FAILED_PRECONDITION | code_pb2.INTERNAL if end.names_missing_blobs:
            return Verdict.CHECK_INPUTS
        case code_pb2.UNAVAILABLE if end.terminating:
            return Verdict.RETRY_UNCOUNTED
        case code if code in _TRANSIENT:
            return Verdict.RETRY
        case _:
            return Verdict.DELIVER
