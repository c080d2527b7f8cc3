"""What bots report of their leases, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.wire.action_results import check_action_result
from gridwright.wire.call import CallMetadata
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.progress_notes import ProgressNotes
from gridwright_scheduler.queue.leases import Reconciled, reconcile
from gridwright_scheduler.queue.names import LeaseId
from gridwright_scheduler.queue.outcome import Attempt, outcome_of, result_of
from gridwright_scheduler.queue.settling import Outcome, Retry
from gridwright_scheduler.session import HeldLease, Session


@dataclass(frozen=True, slots=True)
class News:
    """What a report brought."""

    #: The bot is at work on something that is no longer its own.
    urgent: bool
    #: The bot is to hear at once that it was understood.
    to_answer: bool


class LeaseReports:
    """Turns what bots say into what becomes of actions."""

    def __init__(self, queue: ActionQueue, progress: ProgressNotes, clock: Clock) -> None:
        self._queue = queue
        self._progress = progress
        self._clock = clock

    def store_completed(self, session: Session, told: pb.BotSession) -> Set[LeaseId]:
        """Begin to store what the bot is through with, as far as *session* knows of it; return these leases.

        Whoever has the bot now, and whatever else it says: the end of a lease is settled by the lease alone.
        """
        begun = set()
        for lease in told.leases:
            held = session.leases.get(LeaseId(lease.id))
            if held is not None and lease.state == pb.COMPLETED and not held.is_settling:
                self._settle(session, held, self._outcome(session, held, lease, told))
                begun.add(held.leased.lease_id)
        return begun

    async def take(
        self, session: Session, told: pb.BotSession, metadata: CallMetadata, begun: Set[LeaseId] = frozenset()
    ) -> News:
        """Compare the report with what the bot was given, and store what it says; that is durable on return.

        *begun* is what :meth:`store_completed` returned for this report, if it was called.

        Raises:
            Unavailable: the database is; the bot will tell again.
        """
        reported = {LeaseId(lease.id): lease for lease in told.leases}
        given = session.given(self._clock.now())
        found = reconcile(given, {lease_id: int(lease.state) for lease_id, lease in reported.items()})
        for lease_id in found.kept:
            self._note_progress(session.leases[lease_id], reported[lease_id], metadata)
        begun |= self.store_completed(session, told)
        for lease_id, outcome in self._given_back(session, found).items():
            if not (held := session.leases[lease_id]).is_settling:
                self._settle(session, held, outcome)
        ended = [lease_id for lease_id, held in session.leases.items() if held.is_settling]
        await self._stored(session, ended)
        # A stock worker that has nothing left to do rests for a quarter of a second after each answer, and hears of no
        # work then: better that it waits for that here.
        answer_end = bool(begun or ended) and bool(session.offer.ours or session.leases)
        to_answer = answer_end or bool(found.offered_again or set(found.superfluous) - begun)
        return News(urgent=bool(found.dropped), to_answer=to_answer)

    def _settle(self, session: Session, held: HeldLease, outcome: Outcome) -> None:
        lease_id = held.leased.lease_id
        session.settle(lease_id, self._queue.settle(lease_id, outcome, bot=session.bot))

    async def _stored(self, session: Session, ended: Sequence[LeaseId]) -> None:
        settling = [future for lease_id in ended if (future := session.leases[lease_id].settling) is not None]
        results = await asyncio.gather(*(asyncio.shield(future) for future in settling))
        for lease_id, settled in zip(ended, results, strict=True):
            if settled is None:  # not the current lease any more, and nobody else tells the session
                session.take(lease_id)

    def _outcome(self, session: Session, held: HeldLease, lease: pb.Lease, told: pb.BotSession) -> Outcome:
        worker, leased = session.bot.bot_id, held.leased
        if fault := _fault_of(lease, leased.key.digest):
            return Retry(f"worker {worker} reported {fault}")
        attempt = Attempt(worker, leased.queued_at, leased.do_not_cache, leased.failures)
        return outcome_of(lease, attempt, terminating=told.status == pb.BOT_TERMINATING)

    def _given_back(self, session: Session, found: Reconciled) -> Mapping[LeaseId, Outcome]:
        """Return what becomes of leases that the bot has not completed, and is not to keep."""
        worker = session.bot.bot_id
        outcomes: dict[LeaseId, Outcome] = {
            lease_id: Retry(f"worker {worker} gave the action up") for lease_id in found.given_up
        }
        if not session.healthy:
            for lease_id in (*found.offered_again, *found.kept):
                if session.leases[lease_id].reports == 0:
                    outcomes[lease_id] = Retry(f"worker {worker} takes no work now", counted=False, begun=False)
        return outcomes

    def _note_progress(self, held: HeldLease, lease: pb.Lease, metadata: CallMetadata) -> None:
        if lease.state != pb.ACTIVE:
            return
        held.reports += 1
        unique = held.leased.lease_id.rpartition("/")[2]
        progress = metadata.binary(f"partial-execution-metadata-{unique}-bin")
        if progress is not None and progress != held.progress and _is_metadata(progress):
            held.progress = progress
            self._progress.note(held)


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
