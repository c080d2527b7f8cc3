"""ExistenceCachedStore keeps the promises of a decorator, asks seldom, and cannot lie."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Set

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.removals import RemovalListener, Removals
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, ConfigurationError, GridwrightError, Unavailable
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.clock import FakeClock
from gridwright.testing.counting_store import CountingStore
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.existence_cached import ExistenceCachedStore

SHA256 = DigestFunction.SHA256
DATA = [b"blob %d" % number for number in range(20)]
DIGESTS = [SHA256.digest(data) for data in DATA]
MINUTE = 60.0


def cached(inner: BlobStore, clock: FakeClock | None = None, **policy: int) -> ExistenceCachedStore:
    return ExistenceCachedStore(inner, clock or FakeClock(), EvictionPolicy(**policy))


async def filled() -> CountingStore:
    inner = MemoryStore(max_bytes=2**20)
    await inner.put_many(dict(zip(DIGESTS, DATA, strict=True)))
    return CountingStore(inner)


class TestExistenceCachedStore(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return cached(inner, max_seconds=3600)


class TestExistenceCachedStoreThatForgets(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return cached(inner, max_seconds=3600, max_count=3)


class HeldUp(ForwardingStore):
    """Knows its answers, but gives them when it is let."""

    announces_removals = True

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.removals = Removals()

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        answer = await super().missing(digests)
        await self._wait()
        return answer

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await super().put(digest, chunks)
        await self._wait()

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        answer = await super().put_many(blobs)
        await self._wait()
        return answer

    def on_removal(self, listener: RemovalListener) -> None:
        self.removals.listen(listener)

    async def _wait(self) -> None:
        self.asked.set()
        await self.let.wait()


async def test_what_is_there_is_asked_for_once() -> None:
    counted = await filled()
    store = cached(counted)
    absent = SHA256.digest(b"absent")
    for _ in range(3):
        assert await store.missing({DIGESTS[0]}) == set()
    assert counted.calls["missing"] == 1
    for _ in range(3):
        assert await store.missing({DIGESTS[0], absent}) == {absent}
    assert counted.calls["missing"] == 4  # absence is not remembered


@pytest.mark.parametrize("bulk", [True, False])
async def test_what_was_put_or_read_is_there(bulk: bool) -> None:
    counted = CountingStore(MemoryStore(max_bytes=2**20))
    store = cached(counted)
    if bulk:
        await store.put_many({DIGESTS[0]: DATA[0]})
        await counted.put_many({DIGESTS[1]: DATA[1]})
        await store.get_many([DIGESTS[1]])
        assert await store.missing(set(DIGESTS[:2])) == set()
    else:
        await store.put(DIGESTS[0], chunks_of(DATA[0]))
        assert await store.missing({DIGESTS[0]}) == set()
    assert counted.calls["missing"] == 0


async def test_only_the_unknown_are_asked_for() -> None:
    asked: list[Set[Digest]] = []

    class Noting(MemoryStore):
        async def missing(self, digests: Set[Digest]) -> Set[Digest]:
            asked.append(digests)
            return await super().missing(digests)

    store = cached(Noting(max_bytes=2**20))
    await store.put_many(dict(zip(DIGESTS[:10], DATA[:10], strict=True)))
    await store.missing(set(DIGESTS[5:15]))
    assert asked == [set(DIGESTS[10:15])]


async def test_a_blob_that_goes_is_forgotten_at_once() -> None:
    inner = MemoryStore(max_bytes=1000)
    store = cached(inner)
    await write_blob(store, DIGESTS[0], DATA[0])
    assert await store.missing({DIGESTS[0]}) == set()
    await inner.put(SHA256.digest(b"x" * 1000), chunks_of(b"x" * 1000))
    assert await store.missing({DIGESTS[0]}) == {DIGESTS[0]}


async def test_a_removal_that_is_announced_during_a_question_beats_its_answer() -> None:
    inner = HeldUp(await filled())
    store = cached(inner)
    question = asyncio.create_task(store.missing({DIGESTS[0], DIGESTS[1]}))
    await inner.asked.wait()
    inner.removals.announce([DIGESTS[0]])
    inner.let.set()
    assert await question == {DIGESTS[0]}
    counted = await filled()
    inner._inner = counted
    assert await store.missing({DIGESTS[1]}) == set()
    assert counted.calls["missing"] == 0
    assert await store.missing({DIGESTS[0]}) == set()
    assert counted.calls["missing"] == 1


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_removal_that_is_announced_during_an_upload_is_not_forgotten(bulk: bool) -> None:
    inner = HeldUp(counted := await filled())
    store = cached(inner)
    put = write_blob(store, DIGESTS[0], DATA[0]) if bulk else store.put(DIGESTS[0], chunks_of(DATA[0]))
    upload = asyncio.create_task(put)
    await inner.asked.wait()
    inner.removals.announce([DIGESTS[0]])
    inner.let.set()
    await upload
    await store.missing({DIGESTS[0]})
    assert counted.calls["missing"] == 1


async def test_a_blob_that_is_found_missing_in_a_read_is_forgotten() -> None:
    for read in ("get", "get_many"):
        inner = CountingStore(MemoryStore(max_bytes=2**20))
        store = cached(inner)
        await write_blob(store, DIGESTS[0], DATA[0])
        inner._inner = MemoryStore(max_bytes=2**20)  # lost, and nobody was told
        if read == "get":
            with pytest.raises(BlobNotFound):
                await read_all(store, DIGESTS[0])
        else:
            await store.get_many([DIGESTS[0]])
        assert await store.missing({DIGESTS[0]}) == {DIGESTS[0]}


async def test_uses_are_passed_on_every_ten_minutes_and_in_bulk() -> None:
    counted = await filled()
    clock = FakeClock()
    store = cached(counted, clock)
    await store.missing(set(DIGESTS))
    for _ in range(29):
        clock.advance(MINUTE)
        for digest in DIGESTS:
            await store.missing({digest})
    # Noted after ten minutes, passed on after eleven, all of them together.
    assert counted.calls["missing"] == 1 + 2


async def test_uses_are_passed_on_along_with_a_question() -> None:
    counted = await filled()
    clock = FakeClock()
    store = cached(counted, clock)
    await store.missing(set(DIGESTS[:10]))
    clock.advance(11 * MINUTE)
    await store.missing(set(DIGESTS))
    clock.advance(5 * MINUTE)
    await store.missing(set(DIGESTS))
    assert counted.calls["missing"] == 2


async def test_a_use_that_is_passed_on_finds_out_that_the_blob_is_gone() -> None:
    counted = await filled()
    clock = FakeClock()
    store = cached(counted, clock)
    await store.missing({DIGESTS[0]})
    counted._inner = MemoryStore(max_bytes=2**20)  # lost, and nobody was told
    clock.advance(11 * MINUTE)
    assert await store.missing({DIGESTS[0]}) == set()
    clock.advance(2 * MINUTE)
    assert await store.missing({DIGESTS[0]}) == {DIGESTS[0]}


async def test_a_hot_blob_does_not_look_cold_below() -> None:
    clock = FakeClock()
    inner = MemoryStore(policy=EvictionPolicy(max_seconds=3600), clock=clock)
    store = cached(inner, clock)
    await write_blob(store, DIGESTS[0], DATA[0])
    await write_blob(store, DIGESTS[1], DATA[1])
    for _ in range(200):
        clock.advance(MINUTE)
        await store.missing({DIGESTS[0]})
    assert await inner.missing(set(DIGESTS[:2])) == {DIGESTS[1]}


async def test_where_removals_are_not_heard_an_answer_has_an_age() -> None:
    class Silent(CountingStore):
        announces_removals = False

    inner = Silent((await filled())._inner)
    with pytest.raises(ConfigurationError, match="max_seconds"):
        cached(inner)
    clock = FakeClock()
    store = cached(inner, clock, max_seconds=120)
    for _ in range(10):
        await store.missing({DIGESTS[0]})
        clock.advance(MINUTE)
    # However often it is asked for, the answer is not older than two minutes.
    assert inner.calls["missing"] == 4


async def test_the_least_recently_asked_for_is_forgotten_first() -> None:
    counted = await filled()
    store = cached(counted, max_count=3)
    for number in (0, 1, 2, 0, 3):
        await store.missing({DIGESTS[number]})
    counted.calls.clear()
    await store.missing({DIGESTS[0]})
    await store.missing({DIGESTS[3]})
    assert counted.calls["missing"] == 0
    await store.missing({DIGESTS[1], DIGESTS[2]})
    assert counted.calls["missing"] == 1


async def test_a_question_that_fails_teaches_nothing() -> None:
    inner = HeldUp(BrokenStore(Unavailable("down")))
    inner.let.set()
    store = cached(inner)
    with pytest.raises(Unavailable):
        await store.missing({DIGESTS[0]})
    counted = await filled()
    inner._inner = counted
    await store.missing({DIGESTS[0]})
    assert counted.calls["missing"] == 1


async def test_an_upload_that_fails_teaches_nothing() -> None:
    async def refused() -> AsyncIterator[bytes]:
        yield os.urandom(5)
        raise Unavailable("cut")

    store = cached(CountingStore(MemoryStore(max_bytes=2**20)))
    with pytest.raises(Unavailable):
        await store.put(DIGESTS[0], refused())
    assert await store.missing({DIGESTS[0]}) == {DIGESTS[0]}
