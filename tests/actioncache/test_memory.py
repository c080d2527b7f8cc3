"""Results in memory."""

from __future__ import annotations

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ResourceExhausted
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action
from tests.actioncache.result_stores import a_memory


class TestMemoryResultStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return a_memory()


def bounded(clock: FakeClock, policy: EvictionPolicy) -> MemoryResultStore:
    return MemoryResultStore(policy=policy, clock=clock)


async def test_beyond_the_most_results_the_least_recently_used_go() -> None:
    store = bounded(FakeClock(), EvictionPolicy(max_count=3))
    a, b, c, d = (an_action() for _ in range(4))
    for action in (a, b, c):
        await store.put("main", action, b"")
    await store.get_many("main", [a])
    await store.put("main", d, b"")
    assert set(await store.get_many("main", [a, b, c, d])) == {a, c, d}
    assert "3 results" in repr(store)


async def test_beyond_the_most_bytes_the_least_recently_used_go() -> None:
    store = bounded(FakeClock(), EvictionPolicy(max_bytes=100))
    a, b, c = (an_action() for _ in range(3))
    for action in (a, b):
        await store.put("main", action, bytes(50))
    await store.put("main", a, bytes(40))
    await store.put("main", c, bytes(20))
    assert set(await store.get_many("main", [a, b, c])) == {a, c}
    assert "60 of 100 bytes" in repr(store)


async def test_once_the_bound_is_passed_so_much_more_goes_that_the_next_find_room() -> None:
    store = bounded(FakeClock(), EvictionPolicy(max_bytes=100, evict_bytes=40))
    actions = [an_action() for _ in range(11)]
    for action in actions:
        await store.put("main", action, bytes(10))
    assert set(await store.get_many("main", actions)) == set(actions[5:])


async def test_what_was_not_used_for_long_is_not_found() -> None:
    clock = FakeClock()
    store = bounded(clock, EvictionPolicy(max_seconds=60))
    used, unused = an_action(), an_action()
    await store.put("main", used, b"")
    await store.put("main", unused, b"")
    clock.advance(59)
    await store.get_many("main", [used])
    clock.advance(2)
    assert set(await store.get_many("main", [used, unused])) == {used}


async def test_a_result_that_is_larger_than_all_there_is_is_refused_and_pushes_nothing_out() -> None:
    store = bounded(FakeClock(), EvictionPolicy(max_bytes=100))
    kept = an_action()
    await store.put("main", kept, b"x")
    with pytest.raises(ResourceExhausted):
        await store.put("main", an_action(), bytes(101))
    assert await store.get_many("main", [kept]) == {kept: b"x"}
