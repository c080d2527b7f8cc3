"""queue.retry, queue.outcome and queue.settling: what the end of a lease comes to."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright_scheduler.queue.outcome import Attempt, outcome_of
from gridwright_scheduler.queue.responses import TIMEOUT_MESSAGE
from gridwright_scheduler.queue.retry import LeaseEnd, Verdict, judge
from gridwright_scheduler.queue.settling import Announce, CheckInputs, Facts, Finish, Outcome, Retry, settle
from gridwright_scheduler.queue.states import TRANSITIONS, ActionState
from tests.scheduler.scripted_worker import packed

EXECUTING = Facts(ActionState.EXECUTING, (), None, succeeded=False)
ATTEMPT = Attempt("worker-1", queued_at=1000.5, do_not_cache=False, failures=())


def test_an_action_that_is_to_be_tried_once_is_tried_again_only_if_it_was_not_begun() -> None:
    once = EXECUTING._replace(no_retry=True)
    unseen = settle(once, Retry("worker w left before it began", counted=False, begun=False), max_attempts=5)
    assert unseen == once._replace(state=ActionState.QUEUED, uncounted=("worker w left before it began",))
    after = settle(once, Retry("worker w is terminating", counted=False), max_attempts=5)
    assert after.state is ActionState.COMPLETED
    assert not after.succeeded
    status = pb.ExecuteResponse.FromString(after.response or b"").status
    assert status.code == code_pb2.FAILED_PRECONDITION
    assert status.message == "not tried again, as the platform property retry=never asks: worker w is terminating"


@pytest.mark.parametrize(
    ("code", "exit_code", "verdict"),
    [
        (code_pb2.OK, 0, Verdict.DELIVER),
        (code_pb2.OK, 3, Verdict.DELIVER),
        (code_pb2.OK, None, Verdict.RETRY),
        (code_pb2.DEADLINE_EXCEEDED, 137, Verdict.DELIVER),  # ERR-06
        (code_pb2.DEADLINE_EXCEEDED, None, Verdict.DELIVER),
        (code_pb2.NOT_FOUND, 127, Verdict.DELIVER_AS_OK),  # ERR-12
        (code_pb2.NOT_FOUND, None, Verdict.CHECK_INPUTS),
        (code_pb2.NOT_FOUND, 0, Verdict.CHECK_INPUTS),
        (code_pb2.INTERNAL, None, Verdict.RETRY),
        (code_pb2.UNAVAILABLE, None, Verdict.RETRY),
        (code_pb2.CANCELLED, None, Verdict.RETRY),
        (code_pb2.RESOURCE_EXHAUSTED, None, Verdict.RETRY),
        (code_pb2.INVALID_ARGUMENT, None, Verdict.DELIVER),
        (code_pb2.FAILED_PRECONDITION, None, Verdict.DELIVER),
        (code_pb2.PERMISSION_DENIED, None, Verdict.DELIVER),
    ],
)
def test_a_lease_status_means(code: int, exit_code: int | None, verdict: Verdict) -> None:
    assert judge(LeaseEnd(code, exit_code, names_missing_blobs=False, terminating=False)) is verdict


def test_a_worker_that_shuts_down_costs_no_attempt() -> None:
    end = LeaseEnd(code_pb2.UNAVAILABLE, None, names_missing_blobs=False, terminating=True)
    assert judge(end) is Verdict.RETRY_UNCOUNTED


def test_a_download_that_failed_in_the_stock_runner_is_looked_into() -> None:
    lease = bots_pb2.Lease()
    lease.status.code = code_pb2.INTERNAL
    lease.status.message = (
        "execute() threw: std::runtime_error exception thrown at [buildboxcommon_casclient.cpp:1556], "
        'errMsg = "Failed to download blob, digest=a61/100 code=5 message=blob a61/100 not found"'
    )
    attempt = Attempt("worker", queued_at=1.0, do_not_cache=False, failures=())
    assert isinstance(outcome_of(lease, attempt, terminating=False), CheckInputs)
    lease.status.message = lease.status.message.replace("code=5", "code=14")
    assert isinstance(outcome_of(lease, attempt, terminating=False), Retry)


def test_a_result_becomes_the_response_and_keeps_what_the_worker_said() -> None:
    result = pb.ActionResult(stdout_raw=b"hello")
    result.execution_metadata.worker = "its own name"
    result.execution_metadata.worker_start_timestamp.seconds = 1001
    outcome = outcome_of(lease(result), ATTEMPT, terminating=False)
    assert isinstance(outcome, Finish)
    response = pb.ExecuteResponse.FromString(outcome.response)
    assert outcome.succeeded
    assert outcome.cacheable
    assert response.HasField("status")  # ERR-17
    assert response.result.stdout_raw == b"hello"
    metadata = response.result.execution_metadata
    assert metadata.worker == "its own name"
    assert metadata.worker_start_timestamp.seconds == 1001
    assert metadata.queued_timestamp.ToNanoseconds() == 1_000_500_000_000


def test_unknown_fields_of_a_result_survive() -> None:
    """EMD-07: what a newer worker says is passed on."""
    unknown = pb.ActionResult.FromString(pb.ActionResult(stdout_raw=b"x").SerializeToString() + b"\xa2\x1f\x03abc")
    outcome = outcome_of(lease(unknown), ATTEMPT, terminating=False)
    assert isinstance(outcome, Finish)
    result = pb.ExecuteResponse.FromString(outcome.response).result
    assert b"\xa2\x1f\x03abc" in result.SerializeToString()


@pytest.mark.parametrize(
    ("result", "do_not_cache"),
    [(pb.ActionResult(exit_code=1), False), (pb.ActionResult(), True)],
)
def test_a_failure_and_an_action_that_is_not_to_be_cached_are_not_cached(
    result: pb.ActionResult, do_not_cache: bool
) -> None:
    """POL-02, EXE-26."""
    outcome = outcome_of(lease(result), ATTEMPT._replace(do_not_cache=do_not_cache), terminating=False)
    assert isinstance(outcome, Finish)
    assert outcome.succeeded
    assert not outcome.cacheable


def test_a_timeout_is_passed_on_with_the_partial_result_and_the_words_that_clients_look_for() -> None:
    """ERR-06 to ERR-09."""
    told = lease(pb.ActionResult(exit_code=137, stdout_raw=b"so far"), code_pb2.DEADLINE_EXCEEDED, "Action timeout")
    outcome = outcome_of(told, ATTEMPT, terminating=False)
    assert isinstance(outcome, Finish)
    assert not outcome.succeeded
    assert not outcome.cacheable
    response = pb.ExecuteResponse.FromString(outcome.response)
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED
    assert response.status.message == TIMEOUT_MESSAGE
    assert response.result.stdout_raw == b"so far"


def test_missing_inputs_as_our_workers_report_them_are_looked_for() -> None:
    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type="MISSING", subject="blobs/abc/3")
    told = lease(None, code_pb2.FAILED_PRECONDITION, "missing")
    told.status.details.append(packed(failure))
    assert isinstance(outcome_of(told, ATTEMPT, terminating=False), CheckInputs)


def test_garbage_in_place_of_a_result_is_another_attempt() -> None:
    told = bots_pb2.Lease(state=bots_pb2.COMPLETED)
    told.result.CopyFrom(
        Any(type_url="type.googleapis.com/build.bazel.remote.execution.v2.ActionResult", value=b"\xff")
    )
    assert isinstance(outcome_of(told, ATTEMPT, terminating=False), Retry)


def test_the_last_attempt_ends_with_an_error_that_names_the_workers() -> None:
    """ERR-13."""
    facts = EXECUTING
    for number in range(1, 3):
        facts = settle(facts, Retry(f"worker w{number} stopped answering"), max_attempts=3)
        assert facts.state is ActionState.QUEUED
        facts = facts._replace(state=ActionState.EXECUTING)
    facts = settle(facts, Retry("worker w3 reported INTERNAL: disk"), max_attempts=3)
    assert facts.state is ActionState.COMPLETED
    response = pb.ExecuteResponse.FromString(facts.response or b"")
    assert response.status.code == code_pb2.UNAVAILABLE
    for name in ("w1", "w2", "w3"):
        assert name in response.status.message


def test_an_attempt_that_is_nobodys_fault_is_not_counted() -> None:
    facts = settle(EXECUTING, Retry("worker left", counted=False), max_attempts=1)
    assert facts.state is ActionState.QUEUED
    assert facts.failures == ()


def test_what_is_nobodys_fault_does_not_go_on_for_ever() -> None:
    facts = settle(EXECUTING._replace(leases=1), Retry("worker w1 stopped answering"), max_attempts=2)
    for number in range(2, 6):
        facts = facts._replace(state=ActionState.EXECUTING, leases=number)
        facts = settle(facts, Retry(f"worker w{number} left", counted=False), max_attempts=2)
        assert facts.state is ActionState.QUEUED
    facts = facts._replace(state=ActionState.EXECUTING, leases=6)
    facts = settle(facts, Retry("worker w6 left", counted=False), max_attempts=2)
    assert facts.state is ActionState.COMPLETED
    status = pb.ExecuteResponse.FromString(facts.response or b"").status
    assert status.code == code_pb2.UNAVAILABLE
    assert status.message == (
        "gave up after it was given to workers 6 times: worker w1 stopped answering; worker w2 left; worker w3 left; "
        "worker w4 left; worker w5 left; worker w6 left"
    )


def test_a_cacheable_result_is_announced_after_the_cache_was_written() -> None:
    facts = settle(EXECUTING, Finish(b"response", succeeded=True, cacheable=True), max_attempts=5)
    assert facts.state is ActionState.COMPLETING
    facts = settle(facts, Announce(), max_attempts=5)
    assert facts == Facts(ActionState.COMPLETED, (), b"response", succeeded=True)


outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Finish, st.binary(max_size=5), st.booleans(), st.booleans()),
    st.builds(CheckInputs, st.text(max_size=5)),
    st.builds(Retry, st.text(max_size=5), st.booleans()),
    st.just(Announce()),
)


@given(
    st.sampled_from([ActionState.EXECUTING, ActionState.COMPLETING]),
    st.lists(st.text(max_size=3), max_size=4).map(tuple),
    outcomes,
)
def test_every_settlement_is_a_transition_that_there_is(
    state: ActionState, failures: tuple[str, ...], outcome: Outcome
) -> None:
    after = settle(Facts(state, failures, b"r", succeeded=True), outcome, max_attempts=5)
    assert (
        after.state in TRANSITIONS[state]
        or after.state is state is ActionState.COMPLETING
        or (isinstance(outcome, Announce))
    )
    assert after.state is not ActionState.COMPLETED or after.response is not None


def lease(result: pb.ActionResult | None, code: int = code_pb2.OK, message: str = "") -> bots_pb2.Lease:
    told = bots_pb2.Lease(id="main/1", state=bots_pb2.COMPLETED, status=status_pb2.Status(code=code, message=message))
    if result is not None:
        told.result.CopyFrom(packed(result))
    return told
