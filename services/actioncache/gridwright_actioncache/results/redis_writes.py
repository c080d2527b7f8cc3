"""Changes on their way to Redis, which are tried again for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from gridwright.clock import Clock
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable
from gridwright_actioncache.results.redis_database import Forget, Keep, Prolong, RedisChange

#: One call takes no more than this, unless it is a single change, so that it does not take long.
_CHANGES_PER_CALL = 1_000
_BYTES_PER_CALL = 4 * 1024 * 1024
_MAX_WAITING = 50_000
_MAX_WAITING_BYTES = 64 * 1024 * 1024
#: Results that were used, and whose expiry is to be put off; those beyond hear of it with their next use.
_MAX_PROLONGED = 10_000
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 0.5
_DRAIN_SECONDS = 1.0


@dataclass
class WriteStatistics:
    """What became of changes that Redis did not take at once."""

    #: Changes tried once more.
    retried: int = 0
    #: Changes given up: their time was over, or too many waited.
    dropped: int = 0


@dataclass
class _Waiting:
    change: Keep | Forget
    deadline: float
    failures: int = 0
    #: Told once this change, or a later one of the same key, is made, or has failed twice.
    outcomes: list[asyncio.Future[GridwrightError | None]] = field(default_factory=list)


class PendingWrites:
    """Makes changes in groups, one call at a time, and keeps those that failed for another try.

    What comes while a call is on its way forms the next. Of two changes of one key only the
    later one travels. A change that was not made within *retry_seconds* is dropped, since a
    cache may lose what it was given, and a queue may not grow for ever.

    Removals go first and at once: a Redis that is full takes no results, and still those can
    be revoked that it holds.

    Args:
        write: makes changes, and returns for each why it was not made; raises if none was.
        statistics: where what happens is counted.
    """

    def __init__(
        self,
        write: Callable[[Sequence[RedisChange]], Awaitable[Sequence[GridwrightError | None]]],
        clock: Clock,
        statistics: WriteStatistics,
        *,
        retry_seconds: float,
    ) -> None:
        self._write = write
        self._clock = clock
        self._statistics = statistics
        self._retry_seconds = retry_seconds
        self._waiting: dict[bytes, _Waiting] = {}
        self._waiting_bytes = 0
        #: The keys of those that are removals.
        self._removals: dict[bytes, None] = {}
        self._prolonged: dict[bytes, Prolong] = {}
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        #: Why the last call did not make all of its changes; None: it did.
        self.trouble: GridwrightError | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, changes: Collection[Keep | Forget]) -> Sequence[asyncio.Future[GridwrightError | None]]:
        """Make *changes* soon; each future tells whether it was made, or why not yet, after its second failure.

        Raises:
            ResourceExhausted: too many wait already, and none of *changes* is made.
        """
        size_bytes = sum(map(_size_of, changes))
        if len(self._waiting) + len(changes) > _MAX_WAITING or self._waiting_bytes + size_bytes > _MAX_WAITING_BYTES:
            self._statistics.dropped += len(changes)
            raise ResourceExhausted("too many results wait for Redis to take them", retry_after_seconds=1.0)
        loop = asyncio.get_running_loop()
        deadline = self._clock.monotonic() + self._retry_seconds
        futures = []
        for change in changes:
            future: asyncio.Future[GridwrightError | None] = loop.create_future()
            futures.append(future)
            before = self._pop(change.key)
            self._push(_Waiting(change, deadline, outcomes=[*(before.outcomes if before else ()), future]))
        if self._removals:
            self.hurry()
        self._start()
        return futures

    def prolong(self, key: bytes, expire_ms: int) -> None:
        """Put the expiry of *key* off with the next call; when that fails, so be it."""
        if len(self._prolonged) < _MAX_PROLONGED:
            self._prolonged[key] = Prolong(key, expire_ms)
            self._start()

    def hurry(self) -> None:
        """Try again now: what was in the way is gone."""
        self._hurry.set()

    async def aclose(self) -> None:
        """Make what can be made within a second, and drop the rest."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_DRAIN_SECONDS if self.trouble is None else 0)
            self._writing.cancel()
            await asyncio.wait([self._writing])

    def _start(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="writes to Redis")

    async def _write_all(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        group: list[_Waiting] = []
        try:
            while self._waiting or self._prolonged:
                self._hurry.clear()
                group, prolonged = self._take()
                await self._make(group, prolonged)
                group = []
                if self.trouble is None:
                    pause_seconds = _FIRST_PAUSE_SECONDS
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await self._hurry.wait()
                pause_seconds = min(pause_seconds * 2, _MAX_PAUSE_SECONDS)
                self._drop_overdue()
        finally:
            # Only when the service stops, or after something unexpected, is anyone left; nobody is to wait for ever.
            for waiting in [*group, *self._waiting.values()]:
                self._drop(waiting, Unavailable("the service is stopping"))
            self._waiting, self._waiting_bytes, self._removals = {}, 0, {}
            self.trouble = None

    async def _make(self, group: Sequence[_Waiting], prolonged: Sequence[Prolong]) -> None:
        changes = [*(waiting.change for waiting in group), *prolonged]
        outcomes: Sequence[GridwrightError | None]
        try:
            outcomes = await self._write(changes)
        except GridwrightError as error:
            outcomes = [error] * len(changes)
        failures = 0
        self.trouble = None
        for waiting, outcome in zip(group, outcomes, strict=False):  # for those prolonged, at its end, nobody waits
            if outcome is None:
                _tell(waiting, None)
                continue
            self.trouble = outcome
            failures += 1
            self._put_back(waiting, outcome)
        self._statistics.retried += failures

    def _put_back(self, waiting: _Waiting, why: GridwrightError) -> None:
        waiting.failures += 1
        if waiting.failures > 1:
            _tell(waiting, why)
        later = self._waiting.get(waiting.change.key)
        if later is None:
            self._push(waiting)
        else:
            later.outcomes += waiting.outcomes

    def _take(self) -> tuple[list[_Waiting], list[Prolong]]:
        group: list[_Waiting] = []
        size_bytes = 0
        # Each once, also of those that both have.
        for key in dict.fromkeys(islice(chain(self._removals, self._waiting), _CHANGES_PER_CALL)):
            size_bytes += _size_of(self._waiting[key].change)
            if group and size_bytes > _BYTES_PER_CALL:
                break
            if waiting := self._pop(key):
                group.append(waiting)
        keys = list(islice(self._prolonged, _CHANGES_PER_CALL - len(group)))
        return group, [self._prolonged.pop(key) for key in keys]

    def _drop_overdue(self) -> None:
        now = self._clock.monotonic()
        for key in [key for key, waiting in self._waiting.items() if waiting.deadline <= now]:
            if waiting := self._pop(key):
                self._drop(waiting, self.trouble or Unavailable("Redis took it too late"))

    def _drop(self, waiting: _Waiting, why: GridwrightError) -> None:
        self._statistics.dropped += 1
        _tell(waiting, why)

    def _push(self, waiting: _Waiting) -> None:
        self._waiting[waiting.change.key] = waiting
        if isinstance(waiting.change, Forget):
            self._removals[waiting.change.key] = None
        self._waiting_bytes += _size_of(waiting.change)

    def _pop(self, key: bytes) -> _Waiting | None:
        waiting = self._waiting.pop(key, None)
        self._removals.pop(key, None)
        if waiting is not None:
            self._waiting_bytes -= _size_of(waiting.change)
        return waiting


def _tell(waiting: _Waiting, error: GridwrightError | None) -> None:
    for outcome in waiting.outcomes:
        outcome.set_result(error)
    waiting.outcomes.clear()


def _size_of(change: Keep | Forget) -> int:
    return len(change.value) if isinstance(change, Keep) else 0
