"""Which leases the worker holds, and what the scheduler's answers mean for them: decisions, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, NewType

from google.rpc import code_pb2, status_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2

LeaseId = NewType("LeaseId", str)

#: A message may have 16 MiB; one that is larger cannot be sent at all, and the worker would be taken for dead.
_MAX_RESULT_BYTES = 8 * 1024 * 1024
_MAX_RESULTS_BYTES = 12 * 1024 * 1024


class Changes(NamedTuple):
    """What follows from an answer."""

    start: Sequence[bots_pb2.Lease]
    stop: Sequence[LeaseId]


class Leases:
    """The leases of one session, as the worker tells them to the scheduler.

    A completed lease is kept, and told again, until an answer no longer lists it: only then
    is it certain that the result has arrived. ``version`` grows with each change that the
    scheduler has yet to hear of.
    """

    def __init__(self) -> None:
        self._held: dict[LeaseId, bots_pb2.Lease] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<Leases {len(self._held)}>"

    @property
    def running(self) -> int:
        """How many are not completed."""
        return len(self.unfinished())

    def unfinished(self) -> Sequence[LeaseId]:
        """Return those that are not completed."""
        return [lease_id for lease_id, lease in self._held.items() if lease.state != bots_pb2.COMPLETED]

    def told(self) -> list[bots_pb2.Lease]:
        """Return what to tell the scheduler.

        Results that do not fit in the message beside others wait until those have arrived;
        until then their leases are told as if they still ran.
        """
        told: list[bots_pb2.Lease] = []
        results_bytes = 0
        for lease in self._held.values():
            result_bytes = len(lease.result.value) + lease.status.ByteSize()
            if results_bytes and results_bytes + result_bytes > _MAX_RESULTS_BYTES:
                told.append(_at_work(lease))
            else:
                told.append(lease)
                results_bytes += result_bytes
        return told

    def answered(self, leases: Iterable[bots_pb2.Lease], *, accepting: bool = True) -> Changes:
        """Take in the scheduler's list, which is authoritative.

        A lease of ours that it does not list is to be stopped, if it runs still; one that
        is offered and new is to be started, unless the worker is leaving (not *accepting*). One
        that is ACTIVE to the scheduler and unknown here was lost here, and has no payload.
        """
        wanted = {LeaseId(lease.id): lease for lease in leases if lease.state != bots_pb2.CANCELLED}
        stop: list[LeaseId] = []
        for lease_id in self._held.keys() - wanted.keys():
            if self._held.pop(lease_id).state != bots_pb2.COMPLETED:
                stop.append(lease_id)
        start: list[bots_pb2.Lease] = []
        for lease_id, lease in wanted.items():
            if lease_id not in self._held and accepting and lease.state == bots_pb2.PENDING:
                self._held[lease_id] = _at_work(lease)
                self.version += 1
                start.append(lease)
        return Changes(start, stop)

    def completed(self, lease_id: LeaseId, status: status_pb2.Status, result: pb.ActionResult | None) -> bool:
        """Note the outcome of a lease; return False if the scheduler no longer wants it."""
        lease = self._held.get(lease_id)
        if lease is None:
            return False
        lease.state = bots_pb2.COMPLETED
        if result is not None and (size_bytes := result.ByteSize()) > _MAX_RESULT_BYTES:
            lease.status.CopyFrom(_too_large(size_bytes))
        else:
            lease.status.CopyFrom(status)
            if result is not None:
                lease.result.Pack(result)
        self.version += 1
        return True

    def dropped(self) -> Sequence[LeaseId]:
        """Forget all, as the scheduler has forgotten them; return those that still run."""
        running = self.unfinished()
        self._held.clear()
        return running


def _at_work(lease: bots_pb2.Lease) -> bots_pb2.Lease:
    """Return what to tell of a lease that runs; its payload would be told with every report, and nobody reads it."""
    return bots_pb2.Lease(id=lease.id, state=bots_pb2.ACTIVE)


def _too_large(size_bytes: int) -> status_pb2.Status:
    """Say what the user can do; another attempt would end the same way."""
    return status_pb2.Status(
        code=code_pb2.FAILED_PRECONDITION,
        message=f"the action's result has {size_bytes} bytes, at most {_MAX_RESULT_BYTES} are possible; "
        "declare a directory in place of its many output files",
    )
