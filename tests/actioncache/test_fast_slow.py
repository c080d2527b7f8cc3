"""A fast store in front of a slow one."""

from __future__ import annotations

import asyncio

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.direction import Direction
from gridwright.errors import ConfigurationError, ResourceExhausted, Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.fast_slow import FastSlowResultStore
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.noop import NoopResultStore
from gridwright_actioncache.results.size_partitioned import SizePartitionedResultStore
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import DecoratorContract, DocumentsContract, ReplacingContract, an_action
from tests.actioncache.result_stores import BrokenResultStore, CountingResultStore, a_memory

OLD, NEW = b"\x20\x01", b"\x20\x02"
DOWN = Unavailable("down")
ALL = list(Direction)


class Sides:
    """A store, its two sides, which count, and its clock."""

    def __init__(self, fast: Direction = Direction.BOTH, slow: Direction = Direction.BOTH) -> None:
        self.clock = FakeClock()
        self.fast = CountingResultStore(a_memory())
        self.slow = CountingResultStore(a_memory())
        self.store = FastSlowResultStore(self.fast, self.slow, self.clock, fast_direction=fast, slow_direction=slow)


class TestFastSlowResultStore(ReplacingContract, DocumentsContract, DecoratorContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return Sides().store

    def decorated(self, inner: ResultStore) -> ResultStore:
        return FastSlowResultStore(a_memory(), inner, FakeClock())


class TestFastSlowWithABrokenFastStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        sides = Sides()
        sides.fast.errors = {"get_many": DOWN, "put": DOWN}
        return sides.store


class TestFastSlowAroundASmallFastStore(ReplacingContract, DocumentsContract):
    """The shape that operators bring along: small results in a small memory, in front of all others."""

    @pytest.fixture
    def store(self) -> ResultStore:
        memory = MemoryResultStore(policy=EvictionPolicy(max_bytes=2000, max_count=3), clock=FakeClock())
        fast = SizePartitionedResultStore(memory, NoopResultStore(), size_bytes=1024)
        return FastSlowResultStore(fast, a_memory(), FakeClock())


async def test_what_is_put_is_on_both_sides_and_found_without_asking_the_slow_one() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, NEW)
    assert await sides.store.get_many("main", [action]) == {action: NEW}
    assert sides.slow.calls["get_many"] == 0
    assert await sides.slow.get_many("main", [action]) == {action: NEW}


async def test_what_only_the_slow_side_has_is_found_and_brought_to_the_fast_one() -> None:
    sides, near, far = Sides(), an_action(), an_action()
    await sides.store.put("main", near, NEW)
    await sides.slow.put("main", far, NEW)
    assert await sides.store.get_many("main", [near, far]) == {near: NEW, far: NEW}
    assert sides.slow.asked == {far}
    sides.slow.calls.clear()
    assert await sides.store.get_many("main", [near, far]) == {near: NEW, far: NEW}
    assert sides.slow.calls["get_many"] == 0


async def test_a_slow_side_that_fails_is_no_miss_and_what_the_fast_one_has_is_served_on() -> None:
    sides, known = Sides(), an_action()
    await sides.store.put("main", known, NEW)
    sides.slow.errors = {"get_many": DOWN, "put": DOWN}
    sides.clock.advance(3600)
    assert await sides.store.get_many("main", [known]) == {known: NEW}
    assert sides.store.statistics.slow_failures == 1
    with pytest.raises(Unavailable):
        await sides.store.get_many("main", [known, an_action()])


async def test_what_the_slow_side_refuses_is_not_on_the_fast_one_either() -> None:
    sides, action = Sides(), an_action()
    sides.slow.errors = {"put": ResourceExhausted("full")}
    with pytest.raises(ResourceExhausted):
        await sides.store.put("main", action, NEW)
    assert await sides.store.get_many("main", [action]) == {}


async def test_a_fast_side_that_missed_a_change_is_not_believed() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, OLD)
    sides.fast.errors = {"put": DOWN}
    await sides.store.put("main", action, NEW)
    for _ in range(2):
        assert await sides.store.get_many("main", [action]) == {action: NEW}
    assert sides.store.statistics.fast_failures == 3
    sides.fast.errors = {}
    await sides.store.get_many("main", [action])
    assert await sides.fast.get_many("main", [action]) == {action: NEW}


async def test_the_slow_side_hears_of_uses_and_of_the_changes_of_others_now_and_then() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, OLD)
    await sides.slow.put("main", action, NEW)
    sides.clock.advance(4)
    assert await sides.store.get_many("main", [action]) == {action: OLD}
    assert sides.slow.calls["get_many"] == 0
    sides.clock.advance(2)
    assert await sides.store.get_many("main", [action]) == {action: NEW}
    assert sides.slow.calls["get_many"] == 1
    assert await sides.fast.get_many("main", [action]) == {action: NEW}


async def test_what_another_process_revoked_is_not_served_for_longer_than_seconds() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, NEW)
    await sides.slow.remove("main", [action])
    sides.clock.advance(6)
    assert await sides.store.get_many("main", [action]) == {}
    # And what comes in its place is found.
    await sides.slow.put("main", action, OLD)
    assert await sides.store.get_many("main", [action]) == {action: OLD}


async def test_what_was_found_before_a_change_does_not_undo_it() -> None:
    sides, action = Sides(), an_action()
    await sides.slow.put("main", action, OLD)
    sides.slow.gates["get_many"] = gate = asyncio.Event()
    reading = asyncio.create_task(sides.store.get_many("main", [action]))
    await asyncio.sleep(0)
    await sides.store.put("main", action, NEW)
    gate.set()
    assert await reading == {action: OLD}
    assert await sides.store.get_many("main", [action]) == {action: NEW}
    assert await sides.fast.get_many("main", [action]) == {action: NEW}


async def test_what_was_found_before_it_was_removed_does_not_come_back() -> None:
    sides, action = Sides(), an_action()
    await sides.slow.put("main", action, OLD)
    sides.slow.gates["get_many"] = gate = asyncio.Event()
    reading = asyncio.create_task(sides.store.get_many("main", [action]))
    await asyncio.sleep(0)
    await sides.store.remove("main", [action])
    gate.set()
    await reading
    assert await sides.store.get_many("main", [action]) == {}


async def test_what_is_removed_between_finding_it_and_keeping_it_near_does_not_come_back() -> None:
    sides, action = Sides(), an_action()
    await sides.slow.put("main", action, OLD)
    sides.slow.gates["get_many"], sides.slow.gates["remove"] = reads, removals = asyncio.Event(), asyncio.Event()
    reading = asyncio.create_task(sides.store.get_many("main", [action]))
    await asyncio.sleep(0)
    removing = asyncio.create_task(sides.store.remove("main", [action]))
    for _ in range(10):
        await asyncio.sleep(0)
    # The answer to the question arrives just before that to the removal.
    reads.set()
    removals.set()
    await asyncio.gather(reading, removing)
    assert await sides.store.get_many("main", [action]) == {}
    assert await sides.fast.get_many("main", [action]) == {}


async def test_what_is_found_while_it_is_being_changed_is_left_to_the_writer() -> None:
    sides, action = Sides(), an_action()
    await sides.slow.put("main", action, OLD)
    sides.fast.gates["put"] = gate = asyncio.Event()
    writing = asyncio.create_task(sides.store.put("main", action, NEW))
    await asyncio.sleep(0)
    await sides.fast.remove("main", [action])
    assert await sides.store.get_many("main", [action]) == {action: NEW}
    gate.set()
    await writing
    assert sides.fast.calls["put"] == 1


async def test_a_result_that_cannot_be_removed_from_the_fast_side_is_an_error() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, NEW)
    sides.fast.errors = {"remove": DOWN}
    with pytest.raises(Unavailable):
        await sides.store.remove("main", [action])


async def test_what_cannot_be_removed_from_the_slow_side_now_is_not_served_by_the_fast_one() -> None:
    sides, action = Sides(), an_action()
    await sides.store.put("main", action, NEW)
    sides.slow.errors = {"remove": DOWN, "get_many": DOWN}
    with pytest.raises(Unavailable):
        await sides.store.remove("main", [action])
    with pytest.raises(Unavailable):
        await sides.store.get_many("main", [action])


async def test_those_who_remove_some_of_the_same_do_not_wait_for_each_other_for_ever() -> None:
    sides, actions = Sides(), [an_action() for _ in range(20)]
    await asyncio.wait_for(
        asyncio.gather(sides.store.remove("main", actions), sides.store.remove("main", actions[::-1])), 10
    )


@pytest.mark.parametrize("direction", ALL)
async def test_the_fast_side_gets_what_its_direction_says(direction: Direction) -> None:
    sides, put, found = Sides(fast=direction), an_action(), an_action()
    await sides.store.put("main", put, NEW)
    assert put in await sides.slow.get_many("main", [put])
    assert (put in await sides.fast.get_many("main", [put])) == (direction in (Direction.BOTH, Direction.UPDATE))
    await sides.slow.put("main", found, NEW)
    for _ in range(2):
        assert await sides.store.get_many("main", [found]) == {found: NEW}
    assert (found in await sides.fast.get_many("main", [found])) == (direction in (Direction.BOTH, Direction.GET))


@pytest.mark.parametrize("direction", [Direction.GET, Direction.READ_ONLY])
async def test_a_fast_side_without_updates_does_not_hide_them(direction: Direction) -> None:
    sides, action = Sides(fast=direction), an_action()
    await sides.fast.put("main", action, OLD)
    await sides.store.put("main", action, NEW)
    for _ in range(3):
        assert await sides.store.get_many("main", [action]) == {action: NEW}


@pytest.mark.parametrize("direction", [Direction.GET, Direction.READ_ONLY])
async def test_a_slow_side_without_updates_is_left_alone_and_the_fast_one_has_the_last_word(
    direction: Direction,
) -> None:
    sides, action = Sides(slow=direction), an_action()
    await sides.slow.put("main", action, OLD)
    await sides.store.put("main", action, NEW)
    sides.clock.advance(3600)
    assert await sides.store.get_many("main", [action]) == {action: NEW}
    assert await sides.slow.get_many("main", [action]) == {action: OLD}
    await sides.store.remove("main", [action])
    assert await sides.store.get_many("main", [action]) == {action: OLD}
    sides.fast.errors = {"put": DOWN}
    with pytest.raises(Unavailable):
        await sides.store.put("main", action, NEW)


def test_two_sides_without_updates_make_no_store() -> None:
    with pytest.raises(ConfigurationError, match="read_only"):
        Sides(fast=Direction.GET, slow=Direction.READ_ONLY)


async def test_with_both_sides_broken_everything_is_unavailable() -> None:
    store = FastSlowResultStore(BrokenResultStore(DOWN), BrokenResultStore(DOWN), FakeClock())
    with pytest.raises(Unavailable):
        await store.get_many("main", [an_action()])
