"""What travels to one server of a Redis, and what happens while it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

import structlog

from gridwright.clock import Clock
from gridwright.errors import GridwrightError, Unavailable
from gridwright_actioncache.results.redis_bound import at_most
from gridwright_actioncache.results.redis_circuit import Circuit
from gridwright_actioncache.results.redis_database import Forget, Keep, RedisChange, RedisDatabase
from gridwright_actioncache.results.redis_options import RedisOptions
from gridwright_actioncache.results.redis_reads import CoalescedReads, Value
from gridwright_actioncache.results.redis_writes import PendingWrites, WriteStatistics

log = structlog.get_logger(__name__)

#: Of the time for an answer, so much is Redis's; the rest is for a caller who joined a call that was on its way.
_SHARE_OF_A_CALL = 0.75
#: To connect anew, by way of sentinels and with TLS, may take longer than an answer: nobody waits for it.
_REVIVAL_SECONDS = 3.0
_NO_ANSWER = "no answer in time"

T = TypeVar("T")


class RedisLane:
    """One server: lookups and changes travel to it in company, and a dead one costs its callers no time.

    The first call that fails, or gets no answer in time, opens the circuit: from then on
    callers hear Unavailable at once, while a task asks the server whether it answers again.

    Args:
        report: is told of each call to the server why it failed, or None.
    """

    def __init__(
        self,
        server: str,
        database: RedisDatabase,
        report: Callable[[str | None], None],
        clock: Clock,
        options: RedisOptions,
        statistics: WriteStatistics,
    ) -> None:
        self.server = server
        self.circuit = Circuit()
        self._database = database
        self._report = report
        self._clock = clock
        self._answer_seconds = options.answer_seconds
        self._reads = CoalescedReads(self._read)
        self._writes = PendingWrites(self._write, clock, statistics, retry_seconds=options.write_retry_seconds)
        self._revival: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RedisLane {self.server}: {self.state}, {self.waiting_writes} writes wait>"

    @property
    def state(self) -> str:
        """``up``, or ``down`` and why."""
        return f"down, {self.circuit.error}" if self.circuit.is_open else "up"

    @property
    def waiting_writes(self) -> int:
        """How many changes are on their way."""
        return len(self._writes)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way, and nothing in trouble."""
        return not self.circuit.is_open and not self.waiting_writes

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, Value]:
        """Return what is under each of *keys*.

        Raises:
            Unavailable: the server does not answer, or not in time.
            ResourceExhausted: too many lookups wait for it.
        """
        self._check()
        return await self._in_time(self._reads.get(keys))

    async def change(self, changes: Collection[Keep | Forget]) -> None:
        """Make *changes*; what is not made in time is tried again for a while, also when this raises.

        Raises:
            Unavailable: not all are made yet.
            ResourceExhausted: Redis is full, or too many changes wait for it.
        """
        futures = self._writes.add(changes)
        self._check()
        # What is in the way of results, a lack of room, need not be in the way of removals.
        if self._writes.trouble is not None and any(isinstance(change, Keep) for change in changes):
            raise self._writes.trouble
        await self._in_time(_all_made(futures))

    def prolong(self, key: bytes, expire_ms: int) -> None:
        """Let *key* stay for so long from now on, if it can be arranged."""
        self._writes.prolong(key, expire_ms)

    async def revive(self) -> None:
        """Ask the server once whether it answers, before somebody depends on it; never raises for what it says."""
        try:
            async with asyncio.timeout(_REVIVAL_SECONDS):
                await self._database.revive(self.server)
        except (Unavailable, TimeoutError) as error:
            self._failed(str(error) or _NO_ANSWER)

    async def aclose(self) -> None:
        """Make the changes that can be made within a second, and give up the rest."""
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.wait([self._revival])
        await self._writes.aclose()
        await self._reads.aclose()

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            async with at_most(self._answer_seconds):
                return await answer
        except TimeoutError:
            raise Unavailable(
                f"Redis at {self.server} did not answer within {self._answer_seconds:g} s; try again",
                retry_after_seconds=1.0,
            ) from None

    def _check(self) -> None:
        if self.circuit.is_open:
            # It ends only when the server is back, unless something unexpected ended it.
            self._see_to_revival()
            seconds = self.circuit.open_seconds(self._clock.monotonic())
            raise Unavailable(
                f"Redis at {self.server} has not answered for {seconds:.1f} s and is asked again every second: "
                f"{self.circuit.error}",
                retry_after_seconds=1.0,
            )

    async def _read(self, keys: Sequence[bytes]) -> Sequence[Value]:
        return await self._call(lambda: self._database.get_many(keys))

    async def _write(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        return await self._call(lambda: self._database.change(changes))

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, unless the circuit is open, and note how it went."""
        self._check()
        try:
            async with at_most(self._answer_seconds * _SHARE_OF_A_CALL):
                answer = await call()
        except TimeoutError:
            self._failed(_NO_ANSWER)
            raise Unavailable(f"Redis at {self.server} gave no answer in time") from None
        except Unavailable as error:
            self._failed(str(error))
            raise
        self.circuit.succeeded()
        self._report(None)
        return answer

    def _failed(self, error: str) -> None:
        self._report(error)
        if self.circuit.failed(error, self._clock.monotonic()):
            log.warning("redis does not answer", server=self.server, error=error)
        self._see_to_revival()

    def _see_to_revival(self) -> None:
        if self._revival is None or self._revival.done():
            self._revival = asyncio.create_task(self._until_revived(), name=f"revival of Redis at {self.server}")

    async def _until_revived(self) -> None:
        while True:
            await asyncio.sleep(self.circuit.next_attempt_seconds())
            try:
                async with asyncio.timeout(_REVIVAL_SECONDS):
                    await self._database.revive(self.server)
            except (GridwrightError, TimeoutError) as error:
                self.circuit.error = str(error) or _NO_ANSWER
            else:
                break
        log.info("redis answers again", server=self.server, seconds=self.circuit.open_seconds(self._clock.monotonic()))
        self.circuit.revived()
        self._report(None)
        self._writes.hurry()


async def _all_made(futures: Sequence[asyncio.Future[GridwrightError | None]]) -> None:
    for future in futures:
        # Whoever made the same change earlier waits for it, too.
        if error := await asyncio.shield(future):
            raise error
