"""The decorators that need little: each in the contract, and what it changes."""

from __future__ import annotations

import asyncio

import pytest

from gridwright.errors import FailedPrecondition, GridwrightError, PermissionDenied, Unavailable
from gridwright_actioncache.results.metered import MeteredResultStore, ResultRecorder
from gridwright_actioncache.results.noop import NoopResultStore
from gridwright_actioncache.results.provenance import Provenance, with_provenance
from gridwright_actioncache.results.read_only import ReadOnlyResultStore
from gridwright_actioncache.results.size_partitioned import SizePartitionedResultStore
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.write_once import WriteOnceResultStore
from tests.actioncache.contract import (
    DecoratorContract,
    DocumentsContract,
    ReplacingContract,
    ResultStoreContract,
    a_result,
    an_action,
)
from tests.actioncache.result_stores import BrokenResultStore, CountingResultStore, a_memory


async def test_noop_takes_everything_and_keeps_nothing() -> None:
    store, action = NoopResultStore(), an_action()
    await store.put("main", action, b"x")
    await store.remove("main", [action])
    assert await store.get_many("main", [action]) == {}


async def test_read_only_finds_and_takes_nothing() -> None:
    inner, action = a_memory(), an_action()
    await inner.put("main", action, b"x")
    store = ReadOnlyResultStore(inner)
    with pytest.raises(PermissionDenied, match="read-only"):
        await store.put("main", action, b"y")
    with pytest.raises(PermissionDenied):
        await store.remove("main", [action])
    assert await store.get_many("main", [action]) == {action: b"x"}
    with pytest.raises(Unavailable):
        await ReadOnlyResultStore(BrokenResultStore(Unavailable("down"))).get_many("main", [action])


class TestWriteOnceResultStore(ResultStoreContract, DocumentsContract, DecoratorContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return WriteOnceResultStore(a_memory())

    def decorated(self, inner: ResultStore) -> ResultStore:
        return WriteOnceResultStore(inner)

    async def test_the_first_write_stays(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x01")
        await store.put("main", action, b"\x20\x01")
        with pytest.raises(FailedPrecondition, match="once"):
            await store.put("main", action, b"\x20\x02")
        assert await store.get_many("main", [action]) == {action: b"\x20\x01"}

    async def test_of_many_at_the_same_time_one_is_first(self, store: ResultStore) -> None:
        action = an_action()
        outcomes = await asyncio.gather(
            *(store.put("main", action, bytes([0x20, number])) for number in range(1, 9)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes if outcome] == [FailedPrecondition] * 7


async def test_the_same_result_from_somebody_else_is_no_change() -> None:
    inner, action = a_memory(), an_action()
    store = WriteOnceResultStore(inner)
    first = with_provenance(b"\x20\x01", Provenance("ann", "writer", 1.0, ""))
    await store.put("main", action, first)
    await store.put("main", action, with_provenance(b"\x20\x01", Provenance("bob", "writer", 2.0, "")))
    assert await store.get_many("main", [action]) == {action: first}
    with pytest.raises(FailedPrecondition):
        await store.put("main", action, with_provenance(b"\x20\x02", Provenance("ann", "writer", 3.0, "")))


class TestSizePartitionedResultStore(ReplacingContract, DocumentsContract, DecoratorContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return SizePartitionedResultStore(a_memory(), a_memory(), size_bytes=1024)

    def decorated(self, inner: ResultStore) -> ResultStore:
        return SizePartitionedResultStore(inner, NoopResultStore(), size_bytes=1024)

    @pytest.mark.parametrize(("size_bytes", "side"), [(0, 0), (1023, 0), (1024, 1), (5000, 1)])
    async def test_results_of_less_than_the_size_are_on_the_lower_side(self, size_bytes: int, side: int) -> None:
        sides = a_memory(), a_memory()
        store = SizePartitionedResultStore(*sides, size_bytes=1024)
        action, result = an_action(), a_result(size_bytes)
        await store.put("main", action, result)
        assert await sides[side].get_many("main", [action]) == {action: result}
        assert await sides[1 - side].get_many("main", [action]) == {}

    async def test_above_nothing_a_large_result_takes_the_small_one_away(self) -> None:
        store, action = self.decorated(a_memory()), an_action()
        await store.put("main", action, a_result(10))
        await store.put("main", action, a_result(5000))
        assert await store.get_many("main", [action]) == {}

    async def test_the_upper_side_is_asked_for_what_the_lower_one_lacks(self) -> None:
        upper = CountingResultStore(a_memory())
        store = SizePartitionedResultStore(a_memory(), upper, size_bytes=1024)
        small, large, unknown = an_action(), an_action(), an_action()
        await store.put("main", small, a_result(10))
        await store.put("main", large, a_result(5000))
        assert set(await store.get_many("main", [small])) == {small}
        assert upper.calls["get_many"] == 0
        assert set(await store.get_many("main", [small, large, unknown])) == {small, large}
        assert upper.calls["get_many"] == 1
        assert upper.asked == {large, unknown}

    async def test_an_upper_side_that_fails_is_no_miss(self) -> None:
        store = SizePartitionedResultStore(a_memory(), BrokenResultStore(Unavailable("down")), size_bytes=1024)
        with pytest.raises(Unavailable):
            await store.get_many("main", [an_action()])


class Notes(ResultRecorder):
    def __init__(self) -> None:
        self.notes: list[object] = []

    def looked_up(self, hits: int, misses: int, hit_bytes: int) -> None:
        self.notes.append(("looked up", hits, misses, hit_bytes))

    def kept(self, size_bytes: int) -> None:
        self.notes.append(("kept", size_bytes))

    def failed(self, operation: str, error: GridwrightError) -> None:
        self.notes.append(("failed", operation, str(error)))

    def took(self, operation: str, seconds: float) -> None:
        self.notes.append((operation, seconds))


class TestMeteredResultStore(ReplacingContract, DocumentsContract, DecoratorContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return MeteredResultStore(a_memory(), Notes())

    def decorated(self, inner: ResultStore) -> ResultStore:
        return MeteredResultStore(inner, Notes())

    async def test_it_tells_what_was_done_and_how_long_it_took(self) -> None:
        recorder, times = Notes(), iter(range(100))
        store = MeteredResultStore(a_memory(), recorder, timer=lambda: float(next(times)))
        action = an_action()
        await store.put("main", action, b"abc")
        await store.get_many("main", [action, an_action(), an_action()])
        await store.remove("main", [action])
        assert recorder.notes == [
            ("put", 1.0),
            ("kept", 3),
            ("get_many", 1.0),
            ("looked up", 1, 2, 3),
            ("remove", 1.0),
        ]

    async def test_it_tells_what_failed_and_counts_it_as_nothing_else(self) -> None:
        recorder = Notes()
        store = MeteredResultStore(BrokenResultStore(Unavailable("down")), recorder, timer=lambda: 0.0)
        with pytest.raises(Unavailable):
            await store.put("main", an_action(), b"abc")
        with pytest.raises(Unavailable):
            await store.get_many("main", [an_action()])
        assert recorder.notes == [
            ("failed", "put", "down"),
            ("put", 0.0),
            ("failed", "get_many", "down"),
            ("get_many", 0.0),
        ]
