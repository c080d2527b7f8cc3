"""A store in front of another one, for speed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Set
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.direction import Direction
from gridwright.errors import ConfigurationError, GridwrightError
from gridwright_actioncache.results.key_locks import KeyLocks
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict

#: So long the fast store is believed without asking the slow one. Another process that shares it may have revoked the
#: result there, and must not have to wait for us longer than people wait for a command.
_BELIEVED_SECONDS = 5.0
#: Each takes some 200 bytes; those forgotten are asked about once more.
_MAX_BELIEVED = 50_000


@dataclass
class FastSlowStatistics:
    """What went wrong on either side without a caller's hearing of it."""

    fast_failures: int = 0
    slow_failures: int = 0


class FastSlowResultStore(ResultStore):
    """Answers from *fast* what it can, asks *slow* for the rest, and lets *fast* have that.

    The slow store has the last word, and a failing fast one breaks nothing. A result can be
    replaced or revoked, by another process as well, so *fast* is believed for some seconds
    since both sides said the same; then *slow* is asked along with what is missing, and what
    it has no longer is not found, whatever *fast* has. Thus it also hears which results are
    in use, and does not drop the hottest ones as its coldest. While *slow* cannot answer,
    what *fast* holds is served on. Of a *slow* that takes no updates *fast* knows better.
    """

    def __init__(
        self,
        fast: ResultStore,
        slow: ResultStore,
        clock: Clock,
        *,
        fast_direction: Direction = Direction.BOTH,
        slow_direction: Direction = Direction.BOTH,
    ) -> None:
        if not fast_direction.takes_puts and not slow_direction.takes_puts:
            raise ConfigurationError("a fast_slow neither of whose sides takes updates keeps nothing; write read_only")
        self._fast = fast
        self._slow = slow
        self._clock = clock
        self._fast_direction = fast_direction
        self._slow_direction = slow_direction
        self._locks = KeyLocks()
        #: Until when the fast store is believed about a result.
        self._believed: OrderedDict[tuple[str, Digest], float] = OrderedDict()
        #: For each question that is being answered, which results changed meanwhile.
        self._questions: dict[int, set[Digest]] = {}
        self.statistics = FastSlowStatistics()

    def __repr__(self) -> str:
        return f"<FastSlowResultStore fast: {self._fast!r}, slow: {self._slow!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        with self._watching() as changed:
            near = await self._from_fast(instance, action_digests)
            asked = [digest for digest in action_digests if digest not in near or not self._believes(instance, digest)]
            if not asked:
                return near
            try:
                far = await self._slow.get_many(instance, asked)
            except GridwrightError:
                if any(digest not in near for digest in asked):
                    raise
                self.statistics.slow_failures += 1
                return near
            if self._slow_direction.takes_puts:
                found = {**{digest: near[digest] for digest in near.keys() - set(asked)}, **far}
            else:
                found = {**far, **near}
            await self._catch_up(
                instance, {digest: found[digest] for digest in asked if digest in found}, near, changed
            )
        return found

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        async with self._changing(instance, [action_digest]):
            if self._slow_direction.takes_puts:
                await self._slow.put(instance, action_digest, result)
            if not self._fast_direction.takes_puts:
                return
            try:
                await self._fast.put(instance, action_digest, result)
            except GridwrightError:
                if not self._slow_direction.takes_puts:
                    raise
                self.statistics.fast_failures += 1
            else:
                self._believe(instance, action_digest)

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        """Remove the results on both sides, unless *slow* takes no updates: there they stay."""
        async with self._changing(instance, action_digests):
            try:
                if self._slow_direction.takes_puts:
                    await self._slow.remove(instance, action_digests)
            finally:
                # Else it would be served on while the slow one cannot answer.
                await self._fast.remove(instance, action_digests)

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        """Yield what is on either side; what *fast* has of *slow*, twice, since the two may differ."""
        for half in (self._fast, self._slow):
            async for page in half.walk(instance):
                yield page

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        found = await self.get_many(instance, [action_digest])
        if action_digest in found:
            return Verdict(Outcome.HIT, found[action_digest])
        return await self._slow.explain(instance, action_digest)

    async def _from_fast(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        try:
            return await self._fast.get_many(instance, action_digests)
        except GridwrightError:
            self.statistics.fast_failures += 1
            return {}

    async def _catch_up(
        self, instance: str, found: Mapping[Digest, bytes], near: Mapping[Digest, bytes], changed: set[Digest]
    ) -> None:
        """Make the fast store, which held *near*, hold what was *found*, and believe it from now on."""
        behind: list[Digest] = []
        for digest, result in found.items():
            if digest in changed:
                continue
            if near.get(digest) == result:
                self._believe(instance, digest)
            else:
                behind.append(digest)
        if self._fast_direction.takes_found:
            await asyncio.gather(*(self._fill(instance, digest, found[digest], changed) for digest in behind))

    async def _fill(self, instance: str, digest: Digest, result: bytes, changed: Set[Digest]) -> None:
        lock = self._locks.of(instance, digest)
        if lock.locked() or digest in changed:
            # Somebody writes it, or has just found it, too; or it was changed before this had its turn.
            return
        async with lock:
            try:
                await self._fast.put(instance, digest, result)
            except GridwrightError:
                self.statistics.fast_failures += 1
            else:
                self._believe(instance, digest)

    @asynccontextmanager
    async def _changing(self, instance: str, digests: Collection[Digest]) -> AsyncIterator[None]:
        """Let nobody else change these results meanwhile, and nobody believe in what they were."""
        async with AsyncExitStack() as stack:
            # In order, so that two who change some of the same never wait for each other.
            for digest in sorted(set(digests)):
                await stack.enter_async_context(self._locks.of(instance, digest))
                self._believed.pop((instance, digest), None)
            try:
                yield
            finally:
                for changed in self._questions.values():
                    changed.update(digests)

    @contextmanager
    def _watching(self) -> Iterator[set[Digest]]:
        """Gather what changes while the block runs: what is found meanwhile may be the state before."""
        changed: set[Digest] = set()
        self._questions[id(changed)] = changed
        try:
            yield changed
        finally:
            del self._questions[id(changed)]

    def _believes(self, instance: str, digest: Digest) -> bool:
        return self._believed.get((instance, digest), 0.0) > self._clock.monotonic()

    def _believe(self, instance: str, digest: Digest) -> None:
        self._believed[instance, digest] = self._clock.monotonic() + _BELIEVED_SECONDS
        self._believed.move_to_end((instance, digest))
        if len(self._believed) > _MAX_BELIEVED:
            self._believed.popitem(last=False)
