"""Forgets what is old."""

from __future__ import annotations

from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.database import retention

#: Bounds how long one look for what is old keeps other duties waiting.
_CHUNKS = 20
#: Schedulers tell of the platforms that they use once an hour.
_UNUSED_PLATFORM_SECONDS = 24 * 3600.0
_DEAD_REPLICA_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Deletes what nobody asks for any more; the scheduler that leads does."""

    queue: ActionQueue
    clock: Clock
    #: How long operations can be asked for after they are done.
    retention_seconds: float

    async def forget_finished(self) -> None:
        """Delete a bounded number of actions that finished long ago."""
        before = self.clock.now() - self.retention_seconds
        for _ in range(_CHUNKS):  # each in a turn that it shares with whoever has something to write
            gone = await self.queue.do(lambda connection: retention.forget_finished(connection, before=before))
            if gone < retention.CHUNK:
                return

    async def forget_unused(self) -> None:
        """Delete platforms that no action has, priorities that are not in use, and schedulers that are long dead."""
        now = self.clock.now()
        unused, dead = now - _UNUSED_PLATFORM_SECONDS, now - _DEAD_REPLICA_SECONDS
        await self.queue.do(lambda connection: retention.forget_platforms(connection, before=unused))
        await self.queue.do(lambda connection: retention.forget_replicas(connection, before=dead))
        for _ in range(_CHUNKS):
            if await self.queue.do(retention.forget_priorities) < retention.PRIORITIES:
                return
