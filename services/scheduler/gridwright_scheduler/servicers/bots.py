"""google.devtools.remoteworkers.v1test2.Bots: how workers get actions, and tell what became of them.

Whatever goes wrong here must be UNAVAILABLE: any other code makes a stock worker kill its
jobs and exit. The exceptions are requests that no bot in its right mind sends, and a bot
whose place another of the same name has taken (checklist BOT-03, BOT-05).
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from gridwright.auth.identity import Role
from gridwright.clock import Clock
from gridwright.errors import Aborted, InvalidRequest
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.settings import MAX_SLOTS
from gridwright.wire.call import Call
from gridwright.wire.digests import digest_message
from gridwright_scheduler.attendance import Attendance
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.lease_reports import LeaseReports
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.queue.platform import OURS, Offer
from gridwright_scheduler.sessions import HeldLease, Session, Sessions

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
        _capacity(request.bot_session.worker)  # a bot that asks for nonsense hears of it before it is let in
        session = await self._attendance.begin(bot)
        _describe(session, request.bot_session)
        session.healthy = False  # until it says OK in an update
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
        session = self._sessions.find(bot)
        adopted = session is None
        if session is None:
            session = await self._attendance.adopt(bot, name)
        elif session.name != name:
            raise Aborted(f"session {name} of bot {bot.bot_id} is over: the bot has begun a newer one")
        _describe(session, told)
        self._sessions.heard_of(session)
        with session.poll() as poll:
            news = await self._reports.take(session, told, call.metadata)
            at_once = adopted or news.urgent or news.to_answer or self._is_impatient(session)
            if session.healthy and not self._sessions.stopping and not at_once:
                self._dispatcher.look()
                await poll.wait(self._hold_seconds(call))
            self._sessions.heard_of(session)
            answer = self._answer(
                session, told, urgent=news.urgent or poll.revoked, counts=session.is_answered_by(poll), call=call
            )
        if told.status == pb.BOT_TERMINATING and not session.leases:
            await self._attendance.end(session, f"worker {bot.bot_id} left", counted=False)
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
        return held.reports <= _REPORTS_ANSWERED_AT_ONCE or self._clock.now() - held.active_since < _YOUNG_SECONDS

    def _hold_seconds(self, call: Call) -> float:
        remaining = call.remaining_seconds()
        if remaining is None:
            return self._policy.hold_seconds
        return min(self._policy.hold_seconds, _HOLD_MARGIN * remaining)

    def _answer(
        self, session: Session, told: pb.BotSession, *, urgent: bool, counts: bool, call: Call | None = None
    ) -> pb.BotSession:
        """Return the session as the bot should have it; results are not echoed (checklist BOT-15, BOT-16).

        A worker of ours keeps the payload of what it has begun, and is not told it again.
        """
        answer = pb.BotSession(
            name=session.name, bot_id=told.bot_id, status=told.status, worker=told.worker, version=told.version
        )
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


def _describe(session: Session, told: pb.BotSession) -> None:
    """Let *session* have what the bot says of itself (checklist BOT-07, BOT-21, BOT-22)."""
    properties = {(one.key, one.value) for one in told.worker.properties}
    for device in told.worker.devices[:1]:
        properties |= {(one.key, one.value) for one in device.properties}
    ours = any(key == OURS for key, _ in properties)
    session.offer = Offer(session.bot.instance, frozenset(pair for pair in properties if pair[0] != OURS), ours=ours)
    session.capacity = _capacity(told.worker) if ours else min(_capacity(told.worker), _MAX_STOCK_LEASES)
    session.healthy = told.status == pb.OK


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
