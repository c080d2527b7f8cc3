"""Does what stands between the end of a lease and its clients: the action cache, or the search for inputs."""

from __future__ import annotations

import asyncio

import structlog

from gridwright.errors import GridwrightError, InvalidRequest, MissingBlobs, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.statuses import status_message
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.documents import Documents, parse_action
from gridwright_scheduler.queue.responses import refused
from gridwright_scheduler.queue.settling import Announce, Finish, Outcome, Retry
from gridwright_scheduler.result_cache import ResultCache

log = structlog.get_logger(__name__)

_MAX_AT_ONCE = 256
#: Together less than the time after which upkeep brings an action back.
_TRIES = 60
_PAUSE_SECONDS = 0.5


class Finisher:
    """Carries COMPLETING actions to their end.

    What it has not done when the scheduler dies is in the database, and is done after the
    restart: both the cache write and the search may happen twice.
    """

    def __init__(self, queue: ActionQueue, cache: ResultCache, documents: Documents) -> None:
        self._queue = queue
        self._cache = cache
        self._documents = documents
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)

    async def run(self) -> None:
        """Finish actions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._slots.acquire()
                settled = await self._queue.completing.take()
                tasks.create_task(self._finish(settled))

    async def _finish(self, settled: Settled) -> None:
        leased = settled.leased
        try:
            await self._settle(leased, await self._outcome(leased, settled.response))
        except Unavailable as error:
            # It stays COMPLETING, and upkeep brings it back when its time is up.
            log.warning("action_not_finished", action=str(leased.key.digest), error=str(error))
        finally:
            self._queue.completing.done(settled)
            self._slots.release()

    async def _settle(self, leased: Leased, outcome: Outcome) -> None:
        """Store *outcome*, also when the database is away for a while: clients wait for nothing else any more.

        Raises:
            Unavailable: it was away for too long.
        """
        for _ in range(_TRIES):
            try:
                await asyncio.shield(self._queue.settle(leased.lease_id, outcome))
            except Unavailable:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return
        await asyncio.shield(self._queue.settle(leased.lease_id, outcome))

    async def _outcome(self, leased: Leased, response: bytes | None) -> Outcome:
        if response is None:
            return await self._look_for_inputs(leased)
        await self._cache.write(leased.key, pb.ExecuteResponse.FromString(response).result)
        return Announce()

    async def _look_for_inputs(self, leased: Leased) -> Outcome:
        """Report all inputs that are missing at once; if none is any more, run the action again."""
        try:
            missing = await self._documents.missing_inputs(leased.key, parse_action(leased.key.digest, leased.action))
        except InvalidRequest as error:
            return Finish(refused(status_message(error)), succeeded=False, cacheable=False)
        except GridwrightError as error:
            return Retry(
                f"worker {leased.bot.bot_id} missed an input, and the CAS cannot be asked: {error}", begun=False
            )
        if missing:
            return Finish(refused(status_message(MissingBlobs(missing))), succeeded=False, cacheable=False)
        return Retry(f"worker {leased.bot.bot_id} missed an input that is there", begun=False)
