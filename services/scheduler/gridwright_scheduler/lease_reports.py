"""What bots report of their leases, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.wire.action_results import check_action_result
from gridwright.wire.call import CallMetadata
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.leases import Reconciled, reconcile
from gridwright_scheduler.queue.names import LeaseId
from gridwright_scheduler.queue.outcome import Attempt, outcome_of, result_of
from gridwright_scheduler.queue.settling import Outcome, Retry
from gridwright_scheduler.sessions import HeldLease, Session


@dataclass(frozen=True, slots=True)
class News:
    """What a report brought."""

    #: The bot is at work on something that is no longer its own.
    urgent: bool
    #: The bot is to hear at once that it was understood.
    to_answer: bool


class LeaseReports:
    """Turns what bots say into what becomes of actions."""

    def __init__(self, queue: ActionQueue, board: Board, clock: Clock) -> None:
        self._queue = queue
        self._board = board
        self._clock = clock

    async def take(self, session: Session, told: pb.BotSession, metadata: CallMetadata) -> News:
        """Compare the report with what the bot was given, and store what it says; that is durable on return.

        Raises:
            Unavailable: the database is; the bot will tell again.
        """
        reported = {LeaseId(lease.id): lease for lease in told.leases}
        found = reconcile(session.given(), {lease_id: int(lease.state) for lease_id, lease in reported.items()})
        for lease_id in found.kept:
            self._note_progress(session.leases[lease_id], reported[lease_id], metadata)
        ended = self._outcomes(session, found, reported, terminating=told.status == pb.BOT_TERMINATING)
        await self._settle(session, ended)
        return News(urgent=bool(found.dropped), to_answer=bool(ended or found.superfluous or found.offered_again))

    async def _settle(self, session: Session, ended: Mapping[LeaseId, Outcome]) -> None:
        settling: list[asyncio.Future[Settled | None]] = []
        for lease_id, outcome in ended.items():
            held = session.leases[lease_id]
            if held.settling is None or not held.is_settling:
                held.settling = self._queue.settle(lease_id, outcome)
            settling.append(held.settling)
        results = await asyncio.gather(*(asyncio.shield(future) for future in settling))
        for lease_id, settled in zip(ended, results, strict=True):
            if settled is None:  # not the current lease any more, and nobody else tells the session
                session.leases.pop(lease_id, None)

    def _outcomes(
        self, session: Session, found: Reconciled, reported: Mapping[LeaseId, pb.Lease], *, terminating: bool
    ) -> dict[LeaseId, Outcome]:
        worker = session.bot.bot_id
        outcomes: dict[LeaseId, Outcome] = {}
        for lease_id in found.completed:
            leased = session.leases[lease_id].leased
            attempt = Attempt(worker, leased.queued_at, leased.do_not_cache, leased.failures)
            fault = _fault_of(reported[lease_id], leased.key.digest)
            outcomes[lease_id] = (
                Retry(f"worker {worker} reported {fault}")
                if fault
                else outcome_of(reported[lease_id], attempt, terminating=terminating)
            )
        for lease_id in found.given_up:
            outcomes[lease_id] = Retry(f"worker {worker} gave the action up", counted=True)
        if not session.healthy:
            for lease_id in (*found.offered_again, *found.kept):
                if session.leases[lease_id].reports == 0:
                    outcomes[lease_id] = Retry(f"worker {worker} takes no work now", counted=False, begun=False)
        return outcomes

    def _note_progress(self, held: HeldLease, lease: pb.Lease, metadata: CallMetadata) -> None:
        if lease.state != pb.ACTIVE:
            return
        if held.reports == 0:
            held.active_since = self._clock.now()
        held.reports += 1
        unique = held.leased.lease_id.rpartition("/")[2]
        progress = metadata.binary(f"partial-execution-metadata-{unique}-bin")
        if progress is not None and progress != held.progress and _is_metadata(progress):
            held.progress = progress
            self._board.publish(replace(held.leased.snapshot(), progress=progress))


def _is_metadata(data: bytes) -> bool:
    """Whether it can be merged into what clients are shown."""
    try:
        re.ExecutedActionMetadata.FromString(data)
    except DecodeError:
        return False
    return True


def _fault_of(lease: pb.Lease, action: Digest) -> str:
    """Return what is wrong with the result in a completed *lease*, or "": no client could make use of it."""
    result = result_of(lease)
    if result is None:
        return "a result that cannot be read" if lease.HasField("result") else ""
    try:
        check_action_result(result, action)
    except InvalidRequest as error:
        return f"a result that makes no sense: {error}"
    return ""
