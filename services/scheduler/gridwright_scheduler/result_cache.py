"""The action cache, as the scheduler uses it: bounded, and never in the way."""

from __future__ import annotations

import asyncio

import structlog

from gridwright.errors import GridwrightError, NotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright.wire.rpc import Channel
from gridwright_scheduler.batched_results import BatchedResults
from gridwright_scheduler.queue.names import ActionKey

log = structlog.get_logger(__name__)

_MAX_LOOKUPS = 128
_MAX_LATE_WRITES = 1_000


class ResultCache:
    """Looks results up, and writes those of this scheduler's actions.

    Args:
        channel: how the action cache is reached.
        lookup_seconds: how long a lookup may take before it counts as a miss.
        write_seconds: how long a client waits for its result to be written. The write
            itself goes on for *late_seconds* more: a cache that is slow for a moment must
            not cost the next build an execution.
    """

    def __init__(
        self, channel: Channel, *, lookup_seconds: float, write_seconds: float, late_seconds: float = 30.0
    ) -> None:
        self._results = BatchedResults(channel, lookup_seconds=lookup_seconds, write_seconds=late_seconds)
        self._lookup_seconds = lookup_seconds
        self._write_seconds = write_seconds
        self._late_seconds = late_seconds
        self._slots = asyncio.Semaphore(_MAX_LOOKUPS)
        self._writing: set[asyncio.Task[None]] = set()
        self._failing = False

    async def lookup(self, key: ActionKey, request: pb.ExecuteRequest) -> pb.ActionResult | None:
        """Return the cached result of action *key*, with what *request* wants inline; None also if there is trouble."""
        question = pb.GetActionResultRequest(
            instance_name=key.instance,
            action_digest=digest_message(key.digest),
            digest_function=int(key.digest.function),  # type: ignore[arg-type]  # the same numbers
            inline_stdout=request.inline_stdout,
            inline_stderr=request.inline_stderr,
            inline_output_files=request.inline_output_files,
        )
        try:
            # Also round the wait for a slot: behind a cache that hangs, each would wait for all before it.
            async with asyncio.timeout(self._lookup_seconds), self._slots:
                result: pb.ActionResult | None = await self._results.get(question)
        except NotFound:
            result = None
        except (GridwrightError, TimeoutError) as error:
            self._complain(error)
            return None
        self._complain(None)
        return result

    async def write(self, key: ActionKey, result: pb.ActionResult) -> None:
        """Write the result of action *key*; return when that is done, or no longer worth waiting for."""
        if len(self._writing) >= _MAX_LATE_WRITES:
            log.warning("cache_write_skipped", action=str(key.digest))
            return
        task = asyncio.create_task(self._write(key, result))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.wait([task], timeout=self._write_seconds)

    async def close(self) -> None:
        """Give late writes a moment, then give them up."""
        if self._writing:
            _, pending = await asyncio.wait(self._writing, timeout=self._write_seconds)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await self._results.close()

    def _complain(self, trouble: Exception | None) -> None:
        """Log that lookups fail once an outage, not once an action."""
        if trouble is not None and not self._failing:
            error = str(trouble) or "no answer in time"
            log.warning("cache_lookups_fail", error=error, effect="every lookup is a miss until it answers")
        elif trouble is None and self._failing:
            log.info("cache_answers")
        self._failing = trouble is not None

    async def _write(self, key: ActionKey, result: pb.ActionResult) -> None:
        request = pb.UpdateActionResultRequest(
            instance_name=key.instance,
            action_digest=digest_message(key.digest),
            action_result=result,
            digest_function=int(key.digest.function),  # type: ignore[arg-type]
        )
        try:
            async with asyncio.timeout(self._late_seconds):
                await self._results.update(request)
        except (GridwrightError, TimeoutError) as error:
            log.warning("cache_write_failed", action=str(key.digest), error=str(error))
