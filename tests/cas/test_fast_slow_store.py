"""FastSlowStore keeps the promises of a decorator; whatever its fast half does, uploads are kept and reads go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set
from contextlib import aclosing

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.direction import Direction
from gridwright.errors import BlobCorrupted, BlobNotFound, GridwrightError, InvalidRequest, OutOfRange, Unavailable
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of, read_all
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.clock import FakeClock
from gridwright.testing.counting_store import CountingStore
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.fast_slow import FastSlowStore
from gridwright_cas.stores.noop import NoopStore

SHA256 = DigestFunction.SHA256
DOWN = Unavailable("down")
SMALL, LARGE = os.urandom(1000), os.urandom(5 * CHUNK_BYTES + 5)
BOTH = [SMALL, LARGE]
Direct = Direction


def memory() -> CountingStore:
    return CountingStore(MemoryStore(max_bytes=2**27))


async def memory_with(*blobs: bytes) -> CountingStore:
    store = MemoryStore(max_bytes=2**27)
    await store.put_many({SHA256.digest(blob): blob for blob in blobs})
    return CountingStore(store)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_cas.stores.side_copy._PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("gridwright_cas.stores.fast_slow._PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("gridwright_cas.stores.filling._STALL_SECONDS", 0.1)


def fast_slow(fast: BlobStore, slow: BlobStore) -> FastSlowStore:
    return FastSlowStore(fast, slow, FakeClock())


class TestFastSlowStore(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return fast_slow(MemoryStore(max_bytes=2**27), inner)


class TestFastSlowStoreWithTinyFast(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return fast_slow(MemoryStore(max_bytes=20_000), inner)


class TestFastSlowStoreWithoutFast(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return fast_slow(NoopStore(), inner)


class TestFastSlowStoreWithBrokenFast(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return fast_slow(BrokenStore(DOWN), inner)


class TestFastSlowStoreThatReadsThrough(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return FastSlowStore(MemoryStore(max_bytes=2**27), inner, FakeClock(), fast_direction=Direction.GET)


class TestFastSlowStoreWhoseSlowTakesNothing(BlobStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return FastSlowStore(memory(), memory(), FakeClock(), slow_direction=Direction.READ_ONLY)


class Hanging(ForwardingStore):
    """Answers no bulk and ends no upload."""

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await asyncio.Event().wait()

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        await asyncio.Event().wait()
        return {}

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        await asyncio.Event().wait()
        return {}


class Breaking(ForwardingStore):
    """Breaks after the first chunk of a read."""

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        async with aclosing(self._inner.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
            yield await anext(chunks)
        raise BlobCorrupted(digest)


class Gated(CountingStore):
    """Lets no chunk or bulk of a read out before the gate is open."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.gate = asyncio.Event()

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        async for chunk in super().get(digest, offset=offset, limit=limit):
            await self.gate.wait()
            yield chunk

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found = await super().get_many(digests)
        await self.gate.wait()
        return found


async def test_the_slow_one_alone_says_what_is_missing() -> None:
    fast, slow = await memory_with(SMALL), memory()
    assert await fast_slow(fast, slow).missing({SHA256.digest(SMALL)}) == {SHA256.digest(SMALL)}
    assert fast.calls["missing"] == 0


@pytest.mark.parametrize("data", BOTH)
@pytest.mark.parametrize("bulk", [True, False])
async def test_uploads_reach_both(data: bytes, bulk: bool) -> None:
    fast, slow = memory(), memory()
    store = fast_slow(fast, slow)
    digest = SHA256.digest(data)
    await (write_blob(store, digest, data) if bulk else store.put(digest, chunks_of(data)))
    assert await read_blob(fast, digest) == await read_blob(slow, digest) == data
    assert store.fast_failures == 0


@pytest.mark.parametrize("data", BOTH)
@pytest.mark.parametrize("bulk", [True, False])
async def test_a_read_fills_the_fast_one_and_the_next_is_served_by_it(data: bytes, bulk: bool) -> None:
    fast, slow = memory(), await memory_with(data)
    store = fast_slow(fast, slow)
    digest = SHA256.digest(data)
    for _ in range(3):
        assert await (read_blob(store, digest) if bulk else read_all(store, digest)) == data
    assert slow.calls["get"] + slow.calls["get_many"] == 1
    assert await read_blob(fast, digest) == data


async def test_a_part_of_a_small_blob_fills_the_fast_one_and_a_part_of_a_large_one_is_read_alone() -> None:
    fast, slow = memory(), await memory_with(SMALL, LARGE)
    store = fast_slow(fast, slow)
    assert await read_all(store, SHA256.digest(SMALL), offset=10, limit=5) == SMALL[10:15]
    assert await read_blob(fast, SHA256.digest(SMALL)) == SMALL
    slow.read_bytes = 0
    assert await read_all(store, SHA256.digest(LARGE), offset=10, limit=5) == LARGE[10:15]
    assert await read_all(store, SHA256.digest(LARGE), offset=-5) == LARGE[-5:]
    assert slow.read_bytes == 10
    assert await fast.missing({SHA256.digest(LARGE)}) == {SHA256.digest(LARGE)}


@pytest.mark.parametrize("data", BOTH)
async def test_what_many_want_at_the_same_time_is_fetched_once(data: bytes) -> None:
    digest = SHA256.digest(data)
    slow = Gated(await memory_with(data))
    store = fast_slow(memory(), slow)
    readers = [asyncio.create_task(read_all(store, digest)) for _ in range(20)]
    await asyncio.sleep(0.01)
    slow.gate.set()
    assert await asyncio.gather(*readers) == [data] * 20
    assert slow.calls["get"] + slow.calls["get_many"] == 1


async def test_in_bulk_what_others_fetch_already_is_waited_for() -> None:
    blobs = {SHA256.digest(data): data for data in (os.urandom(100) for _ in range(30))}
    digests = list(blobs)
    slow = Gated(await memory_with(*blobs.values()))
    store = fast_slow(memory(), slow)
    tasks = [asyncio.create_task(store.get_many(digests[start : start + 20])) for start in (0, 5, 10)]
    await asyncio.sleep(0.01)
    slow.gate.set()
    for start, found in zip((0, 5, 10), await asyncio.gather(*tasks), strict=True):
        assert found == {digest: blobs[digest] for digest in digests[start : start + 20]}
    assert slow.calls["get_many"] == 3


@pytest.mark.parametrize("data", BOTH)
async def test_when_the_first_reader_goes_away_the_others_are_served(data: bytes) -> None:
    digest = SHA256.digest(data)
    slow = Gated(await memory_with(data))
    store = fast_slow(memory(), slow)
    first, *others = [asyncio.create_task(read_all(store, digest)) for _ in range(5)]
    await asyncio.sleep(0.01)
    first.cancel()
    slow.gate.set()
    assert await asyncio.gather(*others) == [data] * 4
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_reader_that_dawdles_holds_up_nobody_else() -> None:
    digest = SHA256.digest(LARGE)
    store = fast_slow(memory(), await memory_with(LARGE))
    dawdling = store.get(digest)
    first = await anext(dawdling)
    async with asyncio.timeout(5):
        assert await read_all(store, digest) == LARGE
    assert first + b"".join([chunk async for chunk in dawdling]) == LARGE


@pytest.mark.parametrize("data", BOTH)
@pytest.mark.parametrize("fast", [BrokenStore(DOWN), Hanging(NoopStore()), MemoryStore(max_bytes=10)], ids=repr)
async def test_a_fast_one_that_fails_or_hangs_is_counted_and_does_no_harm(data: bytes, fast: BlobStore) -> None:
    digest = SHA256.digest(data)
    for bulk in (True, False):
        slow = memory()
        store = fast_slow(fast, slow)
        async with asyncio.timeout(5):
            await (write_blob(store, digest, data) if bulk else store.put(digest, chunks_of(data)))
            assert store.fast_failures >= 1
            failures = store.fast_failures
            assert await (read_blob(store, digest) if bulk else read_all(store, digest)) == data
        assert store.fast_failures > failures
        assert await read_blob(slow, digest) == data


@pytest.mark.parametrize(("offset", "limit"), [(0, None), (7, None), (7, 2 * CHUNK_BYTES)])
async def test_a_read_that_breaks_in_the_fast_one_goes_on_in_the_slow_one(offset: int, limit: int | None) -> None:
    store = fast_slow(Breaking(await memory_with(LARGE)), await memory_with(LARGE))
    end = None if limit is None else offset + limit
    assert await read_all(store, SHA256.digest(LARGE), offset=offset, limit=limit) == LARGE[offset:end]
    assert store.fast_failures == 1


async def test_a_read_from_the_end_that_breaks_is_broken() -> None:
    store = fast_slow(Breaking(await memory_with(LARGE)), await memory_with(LARGE))
    with pytest.raises(BlobCorrupted):
        await read_all(store, SHA256.digest(LARGE), offset=-2 * CHUNK_BYTES)


async def test_what_the_fast_one_has_is_read_while_the_slow_one_is_down() -> None:
    store = fast_slow(await memory_with(SMALL, LARGE), BrokenStore(DOWN))
    for data in BOTH:
        assert await read_all(store, SHA256.digest(data)) == data
        assert await read_blob(store, SHA256.digest(data)) == data
    with pytest.raises(Unavailable):
        await store.missing({SHA256.digest(SMALL)})
    with pytest.raises(OutOfRange):
        await read_all(store, SHA256.digest(SMALL), offset=1001)


@pytest.mark.parametrize("data", BOTH)
async def test_an_upload_that_the_slow_one_refuses_is_in_neither(data: bytes) -> None:
    fast = memory()
    store = fast_slow(fast, BrokenStore(DOWN))
    with pytest.raises(Unavailable):
        await store.put(SHA256.digest(data), chunks_of(data))
    assert await fast.missing({SHA256.digest(data)}) == {SHA256.digest(data)}


async def test_an_upload_that_breaks_off_is_in_neither() -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield LARGE[:CHUNK_BYTES]
        raise InvalidRequest("wrong")

    fast, slow = memory(), memory()
    digest = SHA256.digest(LARGE)
    with pytest.raises(InvalidRequest):
        await fast_slow(fast, slow).put(digest, breaking())
    assert await fast.missing({digest}) == await slow.missing({digest}) == {digest}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_one_that_hears_only_a_part_of_what_it_has_leaves_no_part_in_the_fast_one() -> None:
    class Hasty(MemoryStore):
        async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
            async for _ in chunks:
                break

    fast = memory()
    digest = SHA256.digest(LARGE)
    await fast_slow(fast, Hasty(max_bytes=1)).put(digest, chunks_of(LARGE))
    assert await fast.missing({digest}) == {digest}


@pytest.mark.parametrize(
    ("fast_direction", "slow_direction", "uploads_in_fast", "uploads_in_slow", "reads_in_fast"),
    [
        (Direct.BOTH, Direct.BOTH, True, True, True),
        (Direct.UPDATE, Direct.BOTH, True, True, False),
        (Direct.GET, Direct.BOTH, False, True, True),
        (Direct.READ_ONLY, Direct.BOTH, False, True, False),
        (Direct.BOTH, Direct.UPDATE, True, True, True),
        (Direct.BOTH, Direct.GET, True, False, True),
        (Direct.UPDATE, Direct.READ_ONLY, True, False, False),
    ],
)
@pytest.mark.parametrize("data", BOTH)
async def test_directions(
    data: bytes,
    fast_direction: Direction,
    slow_direction: Direction,
    uploads_in_fast: bool,
    uploads_in_slow: bool,
    reads_in_fast: bool,
) -> None:
    digest, there, absent = SHA256.digest(data), set[Digest](), {SHA256.digest(data)}
    for bulk in (True, False):
        fast, slow = memory(), memory()
        store = FastSlowStore(fast, slow, FakeClock(), fast_direction=fast_direction, slow_direction=slow_direction)
        await (write_blob(store, digest, data) if bulk else store.put(digest, chunks_of(data)))
        assert await fast.missing({digest}) == (there if uploads_in_fast else absent)
        assert await slow.missing({digest}) == (there if uploads_in_slow else absent)
        assert await store.missing({digest}) == there

        fast, slow = memory(), await memory_with(data)
        store = FastSlowStore(fast, slow, FakeClock(), fast_direction=fast_direction, slow_direction=slow_direction)
        assert await (read_blob(store, digest) if bulk else read_all(store, digest)) == data
        assert await fast.missing({digest}) == (there if reads_in_fast else absent)


async def test_where_the_slow_one_takes_no_uploads_the_fast_one_may_not_fail() -> None:
    store = FastSlowStore(BrokenStore(DOWN), memory(), FakeClock(), slow_direction=Direction.GET)
    with pytest.raises(Unavailable):
        await store.put(SHA256.digest(SMALL), chunks_of(SMALL))
    assert (await store.put_many({SHA256.digest(SMALL): SMALL}))[SHA256.digest(SMALL)] is DOWN


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_blob_that_is_read_from_the_fast_one_does_not_look_cold_to_the_slow_one(bulk: bool) -> None:
    clock = FakeClock()
    slow = CountingStore(MemoryStore(policy=EvictionPolicy(max_seconds=3600), clock=clock))
    store = FastSlowStore(memory(), slow, clock)
    hot, cold = SHA256.digest(SMALL), SHA256.digest(b"cold")
    await store.put_many({hot: SMALL, cold: b"cold"})
    for _ in range(120):
        clock.advance(60)
        assert await (read_blob(store, hot) if bulk else read_all(store, hot)) == SMALL
    assert slow.calls["missing"] <= 120 / 10 + 1
    assert await slow.missing({hot, cold}) == {cold}


async def test_uses_that_the_slow_one_does_not_take_harm_nobody() -> None:
    class Refusing(MemoryStore):
        async def missing(self, digests: Set[Digest]) -> Set[Digest]:
            raise DOWN

    clock = FakeClock()
    store = FastSlowStore(await memory_with(SMALL), Refusing(max_bytes=1), clock)
    for _ in range(5):
        clock.advance(600)
        assert await read_blob(store, SHA256.digest(SMALL)) == SMALL


async def test_a_blob_that_neither_has_is_not_found_and_leaves_nothing_behind() -> None:
    store = fast_slow(memory(), memory())
    for data in BOTH:
        with pytest.raises(BlobNotFound):
            await read_all(store, SHA256.digest(data))
    assert store.fast_failures == 0
    assert "0 failures" in repr(store)
