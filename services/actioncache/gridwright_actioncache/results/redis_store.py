"""Results in Redis, for any number of action caches.

Theory of operation. A result is one key; which server holds it the database knows, and to each
server leads a lane. On a lane lookups that come at the same time travel in one call, and so do
changes. A lane whose server does not answer within the time that a caller is given says so at
once to all who come later, and finds out by itself when it is back; changes wait for that, but
not for long. What a caller hears meanwhile, ``Unavailable`` or that there is no such result, is
for the operator to say. Nobody waits longer than ``answer_seconds``, whatever Redis does.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable
from gridwright_actioncache.results.dependency import DependencyHealth
from gridwright_actioncache.results.redis_bound import at_most
from gridwright_actioncache.results.redis_database import Forget, Keep, RedisDatabase
from gridwright_actioncache.results.redis_lane import RedisLane
from gridwright_actioncache.results.redis_options import RedisOptions
from gridwright_actioncache.results.redis_reads import Value
from gridwright_actioncache.results.redis_records import (
    DamagedValue,
    from_key,
    from_value,
    key_prefix,
    to_key,
    to_value,
)
from gridwright_actioncache.results.redis_writes import WriteStatistics
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict

#: An expiry is put off when that was not done for this share of it, so that reading seldom means writing.
_PROLONG_SHARE = 0.25
#: Each takes some 200 bytes; those forgotten are put off once more.
_MAX_REMEMBERED = 50_000
#: A large change goes in parts, each of which is answered in time.
_REMOVED_TOGETHER = 1_000
#: A part of a walk is one lookup, which is to be answered in time also where results are large.
_WALKED_TOGETHER = 10
#: What a page of a walk holds, or a little more.
_PAGE_BYTES = 4 * 1024 * 1024
#: To look at a thousand keys takes Redis a millisecond, but there may be very many of others before the next of ours.
_PAGE_SECONDS = 30.0
#: Lanes to servers that are gone are forgotten when there are more than this.
_MAX_LANES = 64


@dataclass
class RedisStatistics(WriteStatistics):
    """What happened that no caller was told of as it was."""

    #: Values that were not what had been put under their key; misses.
    damaged: int = 0
    #: Lookups answered as a miss since Redis did not answer.
    missed_in_trouble: int = 0


class RedisResultStore(ResultStore):
    """Keeps results in Redis, which other action caches use along with this one.

    Redis may lose them, by its own eviction or a restart: then they are misses. It may be gone
    altogether: then lookups raise ``Unavailable``, or with ``misses_in_trouble`` find nothing.
    A result that could not be kept in time is tried again for a while in either case, and so
    is a removal, but that one always raises: whoever revokes a result has to know.

    Args:
        health: hears whether all servers that were asked lately have answered.
    """

    def __init__(self, database: RedisDatabase, clock: Clock, options: RedisOptions, health: DependencyHealth) -> None:
        self._database = database
        self._clock = clock
        self._options = options
        self._expire_ms = round(options.expire_seconds * 1000)
        self._lanes: dict[str, RedisLane] = {}
        #: When the expiry of a key was put off last.
        self._prolonged: OrderedDict[bytes, float] = OrderedDict()
        self.statistics = RedisStatistics()
        #: Whether all servers that were asked lately have answered.
        self.health = health

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: RedisDatabase, clock: Clock, options: RedisOptions, health: DependencyHealth
    ) -> AsyncIterator[Self]:
        """Open the store, also while Redis does not answer, for as long as the block runs, and close *database*."""
        store = cls(database, clock, options, health)
        try:
            await store._lane(database.server_of(b"")).revive()
            yield store
        finally:
            await asyncio.gather(*(lane.aclose() for lane in store._lanes.values()))
            await database.aclose()

    def __repr__(self) -> str:
        lanes = "; ".join(f"{lane.server} {lane.state}" for lane in self._lanes.values())
        return f"<RedisResultStore {self._database!r}: {lanes}>"

    @property
    def lanes(self) -> Collection[RedisLane]:
        """One for each server that was asked."""
        return self._lanes.values()

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        return await self._find(instance, action_digests, misses_in_trouble=self._options.misses_in_trouble)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        """Return whether the result is kept; raise where that is not known, also with ``misses_in_trouble``.

        Raises:
            Unavailable: Redis does not answer.
        """
        found = await self._find(instance, [action_digest], misses_in_trouble=False)
        return Verdict(Outcome.HIT, found[action_digest]) if found else Verdict(Outcome.ABSENT)

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        """Keep *result*; where Redis does not take it in time it is tried again for a while.

        Raises:
            Unavailable: it is not kept yet. With ``misses_in_trouble`` nobody is told.
            ResourceExhausted: Redis has no room for it; likewise.
        """
        key = to_key(self._options.prefix, instance, action_digest)
        keep = Keep(key, to_value(key, result), self._expire_ms)
        try:
            await self._lane_of(key).change([keep])
        except (Unavailable, ResourceExhausted):
            if not self._options.misses_in_trouble:
                raise

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        keys = [to_key(self._options.prefix, instance, digest) for digest in action_digests]
        for first in range(0, len(keys), _REMOVED_TOGETHER):
            by_lane = self._by_lane(keys[first : first + _REMOVED_TOGETHER])
            outcomes = await asyncio.gather(
                *(lane.change([Forget(key) for key in its_keys]) for lane, its_keys in by_lane.items()),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        start = key_prefix(self._options.prefix, instance)
        pages = self._database.keys(start)
        while (page := await _next(pages)) is not None:
            digests = {key: digest for key in page if (digest := from_key(key, start)) is not None}
            keys = list(digests)
            results: dict[Digest, bytes] = {}
            for first in range(0, len(keys), _WALKED_TOGETHER):
                values = await self._get(keys[first : first + _WALKED_TOGETHER])
                results.update(self._intact(digests, values))
                if sum(map(len, results.values())) > _PAGE_BYTES or len(results) > PAGE_RESULTS - _WALKED_TOGETHER:
                    yield results
                    results = {}
            if results:
                yield results

    async def _find(
        self, instance: str, action_digests: Collection[Digest], *, misses_in_trouble: bool
    ) -> Mapping[Digest, bytes]:
        keys = {to_key(self._options.prefix, instance, digest): digest for digest in action_digests}
        found: dict[Digest, bytes] = {}
        for key, value in (await self._get(list(keys))).items():
            if value is None:
                continue
            if isinstance(value, GridwrightError):
                if not misses_in_trouble:
                    raise value
                self.statistics.missed_in_trouble += 1
                continue
            try:
                found[keys[key]] = from_value(key, value)
            except DamagedValue:
                self.statistics.damaged += 1
                continue
            if self._expire_ms:
                self._prolong(key)
        return found

    def _intact(self, digests: Mapping[bytes, Digest], values: Mapping[bytes, Value]) -> Iterable[tuple[Digest, bytes]]:
        for key, value in values.items():
            if isinstance(value, GridwrightError):
                raise value
            if value is None:
                continue
            try:
                yield digests[key], from_value(key, value)
            except DamagedValue:
                self.statistics.damaged += 1

    async def _get(self, keys: Sequence[bytes]) -> Mapping[bytes, Value]:
        """Return what is under each of *keys*, an error where its server does not answer."""
        by_lane = self._by_lane(keys)
        if len(by_lane) == 1:
            [(lane, its_keys)] = by_lane.items()
            return await _asked(lane, its_keys)
        answers = await asyncio.gather(*(_asked(lane, its_keys) for lane, its_keys in by_lane.items()))
        return {key: value for answer in answers for key, value in answer.items()}

    def _by_lane(self, keys: Iterable[bytes]) -> Mapping[RedisLane, Sequence[bytes]]:
        by_lane: defaultdict[RedisLane, list[bytes]] = defaultdict(list)
        for key in keys:
            by_lane[self._lane_of(key)].append(key)
        return by_lane

    def _lane_of(self, key: bytes) -> RedisLane:
        return self._lane(self._database.server_of(key))

    def _lane(self, server: str) -> RedisLane:
        lane = self._lanes.get(server)
        if lane is None:
            if len(self._lanes) >= _MAX_LANES:
                self._lanes = {name: one for name, one in self._lanes.items() if not one.is_idle}
            lane = self._lanes[server] = RedisLane(
                server, self._database, partial(self._heard, server), self._clock, self._options, self.statistics
            )
        return lane

    def _heard(self, server: str, error: str | None) -> None:
        if error is not None:
            self.health.failed(f"{server}: {error}")
        elif not any(lane.circuit.is_open for lane in self._lanes.values()):
            self.health.succeeded()

    def _prolong(self, key: bytes) -> None:
        now = self._clock.monotonic()
        if now - self._prolonged.get(key, float("-inf")) < self._expire_ms / 1000 * _PROLONG_SHARE:
            return
        self._prolonged[key] = now
        self._prolonged.move_to_end(key)
        if len(self._prolonged) > _MAX_REMEMBERED:
            self._prolonged.popitem(last=False)
        self._lane_of(key).prolong(key, self._expire_ms)


async def _next(pages: AsyncIterator[Sequence[bytes]]) -> Sequence[bytes] | None:
    try:
        async with at_most(_PAGE_SECONDS):
            return await anext(pages, None)
    except TimeoutError:
        raise Unavailable(f"Redis did not say within {_PAGE_SECONDS:g} s what it holds; try again") from None


async def _asked(lane: RedisLane, keys: Sequence[bytes]) -> Mapping[bytes, Value]:
    try:
        return await lane.get(keys)
    except (Unavailable, ResourceExhausted) as error:
        return dict.fromkeys(keys, error)
