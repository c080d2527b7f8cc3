"""The worker's side of the Bots service: one call is open all the time, and both sides speak through it."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import structlog
from google.rpc import status_pb2

from gridwright.errors import (
    Aborted,
    ConfigurationError,
    FailedPrecondition,
    GridwrightError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2, worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import BotsClient
from gridwright.wire.rpc import Metadata
from gridwright.wire.statuses import status_message
from gridwright_worker.jobs import Jobs
from gridwright_worker.leases import LeaseId, Leases
from gridwright_worker.payload import operations_in

log = structlog.get_logger(__name__)

#: The scheduler holds a call for half of this at most.
_CALL_SECONDS = 60.0
_FIRST_DELAY_SECONDS = 0.05
_MAX_DELAY_SECONDS = 1.0
#: A scheduler that answers at once although nothing is new is asked this often.
_PACE_SECONDS = 0.25
#: While all slots are busy there is nothing to hear but cancellations, and a short action will soon be something to
#: say: waiting for that a little saves a call of three, here and in the scheduler.
_FULL_SECONDS = 0.02
#: After the drain, for killing what still runs and telling the scheduler.
_HAND_BACK_SECONDS = 5.0
#: The scheduler does not know the session any more, or has replaced it.
_SESSION_LOST = (NotFound, InvalidRequest, FailedPrecondition, Aborted)


class Bot(NamedTuple):
    """Who asks for work."""

    instance: str
    bot_id: str
    slots: int
    worker: worker_pb2.Worker
    #: Headers of every call.
    metadata: Metadata


class BotsSession:
    """Takes leases from the scheduler, and tells it what became of them.

    One UpdateBotSession is open all the time; the scheduler answers it when the list of
    leases changes. When the worker has something to say first, it gives the open call up
    and sends the next. Every request tells all, so one that is lost harms nothing. While the
    scheduler is away, actions go on and results wait.
    """

    def __init__(self, bots: BotsClient, bot: Bot, jobs: Jobs) -> None:
        self._bots = bots
        self._bot = bot
        self._jobs = jobs
        self._leases = Leases()
        #: As the scheduler gave it last, without its leases; no name: there is none.
        self._session = bots_pb2.BotSession()
        self._refusals = 0
        self._terminating = False
        #: Something to say that the open call did not.
        self._news = asyncio.Event()
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<BotsSession {self._session.name!r} {self._leases}>"

    def status(self) -> dict[str, object]:
        """Return what an operator would want to know."""
        return {
            "session": self._session.name,
            "state": "draining" if self._terminating else "connected" if self._session.name else "connecting",
            "leases": len(self._leases),
            "error": self._complaint,
        }

    def start(self) -> asyncio.Task[None]:
        """Begin to take work; the task ends with :meth:`drain`, or if it fails."""
        self._task = asyncio.create_task(self._run(), name="bots session")
        return self._task

    async def drain(self, seconds: float) -> None:
        """Take no more work, let running actions finish for *seconds*, hand the others back, and leave."""
        assert self._task is not None
        self._terminating = True
        self._news.set()
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        if not done:
            log.warning("handing_back", leases=len(self._leases))
            running = self._leases.unfinished()
            await self._jobs.close()
            for lease_id in running:
                self._completed(lease_id, status_message(Unavailable("the worker is shutting down")), None)
            await asyncio.wait([self._task], timeout=_HAND_BACK_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                left = await (self._update() if self._session.name else self._create())
                delay = _FIRST_DELAY_SECONDS
                self._complain("")
            except _SESSION_LOST as error:
                self._complain(f"the scheduler refuses the session: {error}")
                self._lose_session()
                left = False
            except GridwrightError as error:
                self._complain(f"the scheduler does not answer: {error}")
                left = False
            else:
                if left:
                    return
                continue
            if self._terminating and not len(self._leases):
                return  # nothing to tell that the scheduler would not find out
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY_SECONDS)

    async def _create(self) -> bool:
        """Begin a session; return whether there is nothing left to do.

        Raises:
            ConfigurationError: the scheduler will never have this worker as it is.
        """
        if self._terminating and not len(self._leases):
            return True
        session = bots_pb2.BotSession(bot_id=self._bot.bot_id, status=bots_pb2.OK, worker=self._bot.worker)
        trailers: list[tuple[str, str | bytes]] = []
        try:
            answer = await self._bots.create_bot_session(
                bots_pb2.CreateBotSessionRequest(parent=self._bot.instance, bot_session=session),
                timeout=_CALL_SECONDS,
                metadata=self._bot.metadata,
                on_trailers=trailers.extend,
            )
        except InvalidRequest as error:
            raise ConfigurationError(f"the scheduler refuses this worker: {error}") from error
        log.info("session_created", session=answer.name)
        # What is held from the session before is offered with the first update, and may be adopted.
        if not len(self._leases):
            self._take(answer, trailers)
        self._remember(answer)
        return False

    async def _update(self) -> bool:
        """Tell the scheduler all, and wait for its answer or for news; return whether there is nothing left to do."""
        told = self._leases.version
        leaving = self._terminating and not len(self._leases)
        started = time.monotonic()
        trailers: list[tuple[str, str | bytes]] = []
        answer = await self._answer_or_news(trailers)
        if answer is None:
            return False
        self._refusals = 0
        held = len(self._leases)
        changed = self._take(answer, trailers) or len(self._leases) != held
        self._remember(answer)
        if leaving:
            return True
        if changed:
            if self._leases.running >= self._bot.slots:
                await self._wait_for_news(_FULL_SECONDS)
        elif self._leases.version == told and time.monotonic() - started < _PACE_SECONDS / 2:
            await self._wait_for_news(_PACE_SECONDS)
        return False

    async def _answer_or_news(self, trailers: list[tuple[str, str | bytes]]) -> bots_pb2.BotSession | None:
        """Return the answer, or None if there is news before it."""
        self._news.clear()
        session = bots_pb2.BotSession(
            name=self._session.name,
            bot_id=self._bot.bot_id,
            status=bots_pb2.BOT_TERMINATING if self._terminating else bots_pb2.OK,
            worker=self._bot.worker,
            leases=self._leases.told(),
            version=self._session.version,
        )
        if self._session.HasField("expire_time"):
            session.expire_time.CopyFrom(self._session.expire_time)
        call = asyncio.ensure_future(
            self._bots.update_bot_session(
                bots_pb2.UpdateBotSessionRequest(name=session.name, bot_session=session),
                timeout=_CALL_SECONDS,
                metadata=self._bot.metadata,
                on_trailers=trailers.extend,
            )
        )
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait([call, news], return_when=asyncio.FIRST_COMPLETED)
            return call.result() if call.done() else None
        finally:
            call.cancel()
            news.cancel()
            await asyncio.gather(call, news, return_exceptions=True)

    def _take(self, answer: bots_pb2.BotSession, trailers: Metadata) -> bool:
        """Start and stop what *answer* asks for; return whether that was anything."""
        changes = self._leases.answered(answer.leases, accepting=not self._terminating)
        self._jobs.stop(changes.stop)
        if changes.start:
            operations = operations_in(trailers)
            for lease in changes.start:
                self._jobs.start(lease, operations, self._completed)
        return bool(changes.start or changes.stop)

    def _completed(self, lease_id: LeaseId, status: status_pb2.Status, result: pb.ActionResult | None) -> None:
        if self._leases.completed(lease_id, status, result):
            self._news.set()

    def _remember(self, answer: bots_pb2.BotSession) -> None:
        self._session.CopyFrom(answer)
        self._session.ClearField("leases")

    def _lose_session(self) -> None:
        self._session.Clear()
        self._refusals += 1
        if self._refusals > 1:
            # Not even a new session may bring the old leases: the scheduler has given them to others.
            self._jobs.stop(self._leases.dropped())

    async def _wait_for_news(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    def _complain(self, what: str) -> None:
        """Log what is wrong once, however often it is met."""
        if what and what != self._complaint:
            log.warning("scheduler_trouble", error=what)
        elif self._complaint and not what:
            log.info("scheduler_answers")
        self._complaint = what
