"""From the lease that a bot completed to the outcome of its action."""

from __future__ import annotations

import re
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright_scheduler.queue.responses import executed, failed
from gridwright_scheduler.queue.retry import LeaseEnd, Verdict, judge
from gridwright_scheduler.queue.settling import CheckInputs, Finish, Outcome, Retry

#: What a stock runner without casd says of a blob that the CAS does not have, among other words; 5 is NOT_FOUND.
_DOWNLOAD_FAILED = re.compile(r"Failed to download blob\b.*\bcode=5\b", re.DOTALL)


class Attempt(NamedTuple):
    """What the scheduler knows of the attempt that ended."""

    worker: str
    queued_at: float
    do_not_cache: bool
    #: What became of the attempts before.
    failures: tuple[str, ...]


def outcome_of(lease: bots_pb2.Lease, attempt: Attempt, *, terminating: bool) -> Outcome:
    """Return what becomes of the action whose *lease* a bot reports as COMPLETED."""
    result = result_of(lease)
    status = lease.status
    end = LeaseEnd(
        code=status.code,
        exit_code=None if result is None else result.exit_code,
        names_missing_blobs=_names_missing_blobs(status),
        terminating=terminating,
    )
    reason = f"worker {attempt.worker} reported {code_name(status.code)}: {status.message or 'no reason given'}"
    match judge(end):
        case Verdict.CHECK_INPUTS:
            return CheckInputs(reason)
        case Verdict.RETRY:
            return Retry(reason)
        case Verdict.RETRY_UNCOUNTED:
            return Retry(reason, counted=False)
        case Verdict.DELIVER_AS_OK if result is not None:
            return _finish(result, attempt, code_pb2.OK, "")
        case _ if result is not None:
            return _finish(result, attempt, status.code, status.message)
        case _:
            return Finish(failed(status.code, status.message), succeeded=False, cacheable=False)


def _finish(result: pb.ActionResult, attempt: Attempt, code: int, message: str) -> Finish:
    response = executed(
        result,
        worker=attempt.worker,
        queued_at=attempt.queued_at,
        code=code,
        message=message,
        failures=attempt.failures,
    )
    succeeded = code == code_pb2.OK
    # A failed command is not cached: it may well be run again to see whether it fails again (checklist POL-02).
    cacheable = succeeded and result.exit_code == 0 and not attempt.do_not_cache
    return Finish(response.SerializeToString(), succeeded, cacheable)


def code_name(code: int) -> str:
    """Return the name of a google.rpc.Code."""
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else f"code {code}"


def result_of(lease: bots_pb2.Lease) -> pb.ActionResult | None:
    """Return the result that a completed *lease* holds, if it holds one that can be read."""
    result = pb.ActionResult()
    try:
        return result if lease.result.Unpack(result) else None
    except DecodeError:
        return None


def _names_missing_blobs(status: status_pb2.Status) -> bool:
    if status.code == code_pb2.INTERNAL and _DOWNLOAD_FAILED.search(status.message):
        return True
    for detail in status.details:
        failure = error_details_pb2.PreconditionFailure()
        if detail.type_url.endswith("/google.rpc.PreconditionFailure"):
            try:
                failure.MergeFromString(detail.value)
            except DecodeError:
                continue
            return any(violation.type == "MISSING" for violation in failure.violations)
    return False
