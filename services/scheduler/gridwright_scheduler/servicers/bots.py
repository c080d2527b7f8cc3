"""google.devtools.remoteworkers.v1test2.Bots: how workers get actions, and tell what became of them.

Whatever goes wrong here must be UNAVAILABLE: any other code makes a stock worker kill its
jobs and exit. The exceptions are requests that no bot in its right mind sends, and a bot
whose place another of the same name has taken (checklist BOT-03, BOT-05).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from gridwright.auth.identity import Role
from gridwright.clock import Clock
from gridwright.errors import InvalidRequest
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.settings import MAX_SLOTS
from gridwright.wire.call import Call
from gridwright.wire.digests import digest_message
from gridwright_scheduler.attendance import Attendance
from gridwright_scheduler.database.bots import Description
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.lease_reports import LeaseReports
from gridwright_scheduler.queue.names import BotKey, LeaseId, SessionName
from gridwright_scheduler.queue.platform import OURS, Offer
from gridwright_scheduler.session import HeldLease, Poll, Session
from gridwright_scheduler.sessions import Sessions

log = structlog.get_logger(__name__)

_ACTION_TYPE = "type.googleapis.com/build.bazel.remote.execution.v2.Action"
_METADATA_KEY = "executeoperationmetadata-bin"
#: Leases that one answer offers. Each has a trailer, by which the worker knows its digest function, and more would
#: pass the 8 KiB of trailers that clients accept; the bot has the others as soon as it has begun these.
_MAX_OFFERED = 40
#: A stock worker is told the payload of each lease every time: so many of 64 KiB fill half a message of 16 MiB.
_MAX_STOCK_LEASES = 128
_MAX_BOT_ID_LENGTH = 256
_MAX_NAME_LENGTH = 1024
#: Of the time until the bot hangs up, how much may pass before it is answered (checklist BOT-17).
_HOLD_MARGIN = 0.8
#: A busy stock worker notices the end of its job late while a poll is held, so young jobs are not held over.
_YOUNG_SECONDS = 5.0
#: Makes a stock worker with a young job ask again within 0.7 s, and so hear of a cancellation within one.
_YOUNG_HEARTBEAT_SECONDS = 0.95
#: Makes a stock worker that is to drop a lease look at once.
_URGENT_HEARTBEAT_SECONDS = 0.3
#: A busy stock worker needs an immediate answer to so many reports before it notices its job's end at once.
_REPORTS_ANSWERED_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """How long bots are kept waiting."""

    #: The longest that a poll is held.
    hold_seconds: float
    #: When a busy bot is expected to say a word again.
    heartbeat_seconds: float


class BotsServicer(Bots):
    """Gives leases to bots, and takes their results."""

    def __init__(
        self,
        instances: Instances,
        sessions: Sessions,
        attendance: Attendance,
        reports: LeaseReports,
        dispatcher: Dispatcher,
        policy: PollPolicy,
        clock: Clock,
    ) -> None:
        self._instances = instances
        self._sessions = sessions
        self._attendance = attendance
        self._reports = reports
        self._dispatcher = dispatcher
        self._policy = policy
        self._clock = clock

    async def create_bot_session(self, request: pb.CreateBotSessionRequest, call: Call) -> pb.BotSession:
        instance = self._instances[request.parent]
        call.identity.require(Role.WORKER)
        bot = _bot_key(instance, request.bot_session)
        # It is well when it says so in an update.
        session = await self._attendance.begin(bot, _described(bot, request.bot_session)._replace(healthy=False))
        return self._answer(session, request.bot_session, urgent=False, counts=False)

    async def update_bot_session(self, request: pb.UpdateBotSessionRequest, call: Call) -> pb.BotSession:
        """Take a bot's report, and hold the call until there is something to answer.

        ``update_mask`` is ignored: a bot always tells the whole of its session (BOT-24).
        """
        told = request.bot_session
        name = SessionName(request.name)
        if not name.rpartition("/")[2] or len(name) > _MAX_NAME_LENGTH or "\0" in name:
            raise InvalidRequest("not the name of a session", field="name")
        if told.name and told.name != name:
            raise InvalidRequest("name and bot_session.name differ", field="name")
        instance = self._instances[name.rpartition("/")[0]]
        call.identity.require(Role.WORKER)
        bot = _bot_key(instance, told)
        description = _described(bot, told)
        known = self._sessions.find(bot)
        begun: Set[LeaseId] = frozenset()
        if known is None or known.name != name:
            session = await self._attendance.attend(bot, name, description, hurry=True)
        else:
            # What it is through with, who has it, and what it is given next: all in one turn, if nothing has changed.
            with known.poll() as poll:
                begun = self._reports.store_completed(known, told)
                hurry = _brings_news(known, told) or self._is_impatient(known)
                session = await self._attendance.attend(bot, name, description, hurry=hurry)
                if session is known:
                    return await self._serve(session, poll, told, begun, call)
        with session.poll() as poll:
            return await self._serve(session, poll, told, begun, call)

    async def _serve(
        self, session: Session, poll: Poll, told: pb.BotSession, begun: Set[LeaseId], call: Call
    ) -> pb.BotSession:
        news = await self._reports.take(session, told, call.metadata, begun)
        at_once = news.urgent or news.to_answer or self._is_impatient(session)
        if session.healthy and not self._sessions.stopping and not at_once:
            self._dispatcher.look()
            await poll.wait(self._hold_seconds(call))
        if self._sessions.find(session.bot) is not session:
            return self._echo(told)
        urgent = news.urgent or poll.revoked
        answer = self._answer(session, told, urgent=urgent, counts=session.is_answered_by(poll), call=call)
        if told.status == pb.BOT_TERMINATING and not session.leases:
            await self._attendance.end(session, f"worker {session.bot.bot_id} left")
        return answer

    async def post_bot_event_temp(self, request: pb.PostBotEventTempRequest, call: Call) -> Empty:
        call.identity.require(Role.WORKER)
        log.info("bot_event", session=request.name[:200], type=request.type, message=request.msg[:1000])
        return Empty()

    def _is_impatient(self, session: Session) -> bool:
        """Whether it is a stock worker with a job so young that it must not be kept waiting."""
        return not session.offer.ours and any(self._is_young(held) for held in session.leases.values())

    def _is_young(self, held: HeldLease) -> bool:
        if held.reports == 0:
            return False
        age = self._clock.now() - held.leased.leased_at
        return age < _YOUNG_SECONDS or (held.reports <= _REPORTS_ANSWERED_AT_ONCE and not held.inherited)

    def _hold_seconds(self, call: Call) -> float:
        remaining = call.remaining_seconds()
        if remaining is None:
            return self._policy.hold_seconds
        return min(self._policy.hold_seconds, _HOLD_MARGIN * remaining)

    def _echo(self, told: pb.BotSession) -> pb.BotSession:
        """Leave the bot what it has: it is no longer this scheduler's to say what that should be."""
        answer = _answer_to(told)
        answer.name = told.name
        answer.expire_time.FromNanoseconds(int((self._clock.now() + self._policy.heartbeat_seconds) * 1e9))
        answer.leases.extend(lease for lease in told.leases if lease.state in (pb.PENDING, pb.ACTIVE))
        return answer

    def _answer(
        self, session: Session, told: pb.BotSession, *, urgent: bool, counts: bool, call: Call | None = None
    ) -> pb.BotSession:
        """Return the session as the bot should have it; results are not echoed (checklist BOT-15, BOT-16).

        A worker of ours keeps the payload of what it has begun, and is not told it again.
        """
        answer = _answer_to(told)
        answer.name = session.name
        heartbeat = self._policy.heartbeat_seconds
        if urgent:
            heartbeat = _URGENT_HEARTBEAT_SECONDS
        elif self._is_impatient(session):
            heartbeat = _YOUNG_HEARTBEAT_SECONDS
        answer.expire_time.FromNanoseconds(int((self._clock.now() + heartbeat) * 1e9))
        offered = 0
        for held in session.leases.values():
            pending = held.reports == 0
            if held.is_settling or (pending and offered == _MAX_OFFERED):
                continue
            lease = answer.leases.add(id=held.leased.lease_id, state=pb.PENDING if pending else pb.ACTIVE)
            if pending or not session.offer.ours:
                lease.payload.CopyFrom(Any(type_url=_ACTION_TYPE, value=held.leased.action))
            if pending:
                offered += 1
                if counts:
                    held.offers += 1
                if call is not None:
                    call.add_trailer(_METADATA_KEY, _lease_metadata(held))
        return answer


def _bot_key(instance: Instance, told: pb.BotSession) -> BotKey:
    if not told.bot_id or len(told.bot_id) > _MAX_BOT_ID_LENGTH or "\0" in told.bot_id:
        raise InvalidRequest(f"bot_id must have 1 to {_MAX_BOT_ID_LENGTH} characters", field="bot_session.bot_id")
    return BotKey(instance.name, told.bot_id)


def _brings_news(session: Session, told: pb.BotSession) -> bool:
    """Whether the report is other than the one before it."""
    leases = session.leases
    return len(told.leases) != len(leases) or any(
        lease.state != pb.ACTIVE or lease.id not in leases or leases[LeaseId(lease.id)].reports == 0
        for lease in told.leases
    )


def _answer_to(told: pb.BotSession) -> pb.BotSession:
    return pb.BotSession(bot_id=told.bot_id, status=told.status, worker=told.worker, version=told.version)


def _described(bot: BotKey, told: pb.BotSession) -> Description:
    """Return what the bot says of itself (checklist BOT-07, BOT-21, BOT-22)."""
    properties = {(one.key, one.value) for one in told.worker.properties}
    for device in told.worker.devices[:1]:
        properties |= {(one.key, one.value) for one in device.properties}
    ours = any(key == OURS for key, _ in properties)
    offer = Offer(bot.instance, frozenset(pair for pair in properties if pair[0] != OURS), ours=ours)
    capacity = _capacity(told.worker) if ours else min(_capacity(told.worker), _MAX_STOCK_LEASES)
    return Description(offer, capacity, told.status == pb.OK)


def _capacity(worker: worker_pb2.Worker) -> int:
    for config in worker.configs:
        if config.key == "capacity":
            value = config.value
            # Python's int() takes other digits than these, and refuses thousands of them with an error of its own.
            if not (value.isascii() and value.isdecimal() and len(value) <= 9 and 1 <= int(value) <= MAX_SLOTS):
                raise InvalidRequest(
                    f"capacity {value[:20]!r} is not a number from 1 to {MAX_SLOTS}",
                    field="bot_session.worker.configs",
                )
            return int(value)
    return 1


def _lease_metadata(held: HeldLease) -> bytes:
    digest = held.leased.key.digest
    return re.ExecuteOperationMetadata(
        stage=re.ExecutionStage.EXECUTING,
        action_digest=digest_message(digest),
        digest_function=int(digest.function),  # type: ignore[arg-type]  # the same numbers
    ).SerializeToString()
