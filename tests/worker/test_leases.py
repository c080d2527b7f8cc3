"""Which leases a worker holds after what the scheduler said."""

from __future__ import annotations

from google.rpc import code_pb2, status_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright_worker.leases import LeaseId, Leases

OK = status_pb2.Status()
A, B = LeaseId("a"), LeaseId("b")


def lease(lease_id: str, state: bots_pb2.LeaseState = bots_pb2.PENDING) -> bots_pb2.Lease:
    return bots_pb2.Lease(id=lease_id, state=state)


def states(leases: Leases) -> dict[str, bots_pb2.LeaseState]:
    return {one.id: one.state for one in leases.told()}


def test_a_new_lease_is_started_and_told_as_active() -> None:
    leases = Leases()
    changes = leases.answered([lease("a"), lease("b")])
    assert [one.id for one in changes.start] == ["a", "b"]
    assert states(leases) == {"a": bots_pb2.ACTIVE, "b": bots_pb2.ACTIVE}


def test_a_lease_that_is_active_and_unknown_is_not_started() -> None:
    """The scheduler takes it to run here, and sends no payload; told without it, it gives the action to another."""
    leases = Leases()
    assert leases.answered([lease("a", bots_pb2.ACTIVE)]) == ([], [])
    assert leases.told() == []


def test_the_payload_is_not_told_again() -> None:
    leases = Leases()
    offered = lease("a")
    offered.payload.Pack(pb.Action())
    [started] = leases.answered([offered]).start
    assert started.HasField("payload")
    assert not leases.told()[0].HasField("payload")
    leases.completed(A, OK, pb.ActionResult())
    assert not leases.told()[0].HasField("payload")


def test_a_lease_that_is_held_already_is_not_started_again() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    assert leases.answered([lease("a")]) == ([], [])


def test_a_lease_that_is_no_longer_listed_is_stopped() -> None:
    leases = Leases()
    leases.answered([lease("a"), lease("b")])
    assert leases.answered([lease("b")]).stop == [A]
    assert states(leases) == {"b": bots_pb2.ACTIVE}


def test_a_lease_that_is_listed_as_cancelled_is_stopped() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    assert leases.answered([lease("a", bots_pb2.CANCELLED)]).stop == [A]


def test_a_completed_lease_is_told_until_it_is_no_longer_listed() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    assert leases.completed(A, OK, pb.ActionResult(exit_code=3))
    # An answer to what was said before does not know yet.
    assert leases.answered([lease("a", bots_pb2.ACTIVE)]) == ([], [])
    [told] = leases.told()
    result = pb.ActionResult()
    told.result.Unpack(result)
    assert (told.state, told.HasField("status"), result.exit_code) == (bots_pb2.COMPLETED, True, 3)
    assert leases.answered([]) == ([], [])
    assert len(leases) == 0


def test_a_result_that_no_message_can_hold_is_told_as_an_error() -> None:
    """It would make every report of the worker impossible to send."""
    leases = Leases()
    leases.answered([lease("a")])
    assert leases.completed(A, OK, pb.ActionResult(stdout_raw=bytes(9 * 2**20)))
    [told] = leases.told()
    assert (told.state, told.HasField("result")) == (bots_pb2.COMPLETED, False)
    assert told.status.code == code_pb2.FAILED_PRECONDITION
    assert "declare a directory" in told.status.message


def test_results_that_one_message_cannot_hold_together_are_told_one_after_the_other() -> None:
    leases = Leases()
    leases.answered([lease("a"), lease("b")])
    for one in (A, B):
        leases.completed(one, OK, pb.ActionResult(stdout_raw=bytes(7 * 2**20)))
    assert states(leases) == {"a": bots_pb2.COMPLETED, "b": bots_pb2.ACTIVE}
    assert leases.unfinished() == []
    assert leases.answered([lease("b", bots_pb2.ACTIVE)]) == ([], [])
    assert states(leases) == {"b": bots_pb2.COMPLETED}


def test_long_lists_of_missing_inputs_are_told_one_after_the_other_as_well() -> None:
    leases = Leases()
    leases.answered([lease("a"), lease("b")])
    for one in (A, B):
        leases.completed(one, status_pb2.Status(message="x" * (7 * 2**20)), None)
    assert states(leases) == {"a": bots_pb2.COMPLETED, "b": bots_pb2.ACTIVE}


def test_the_outcome_of_a_lease_that_was_taken_away_is_not_told() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    leases.answered([])
    assert not leases.completed(A, OK, None)
    assert leases.told() == []


def test_a_worker_that_leaves_takes_nothing_new_and_keeps_what_it_has() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    assert leases.answered([lease("a"), lease("b")], accepting=False) == ([], [])
    assert states(leases) == {"a": bots_pb2.ACTIVE}


def test_dropping_all_names_what_runs_still() -> None:
    leases = Leases()
    leases.answered([lease("a"), lease("b")])
    leases.completed(B, OK, None)
    assert leases.dropped() == [A]
    assert len(leases) == 0


def test_the_version_grows_with_what_the_scheduler_has_yet_to_hear() -> None:
    leases = Leases()
    leases.answered([lease("a")])
    before = leases.version
    leases.answered([lease("a")])
    assert leases.version == before
    leases.completed(A, OK, None)
    assert leases.version > before
