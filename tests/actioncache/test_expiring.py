"""Results that are good for a time only."""

from __future__ import annotations

import pytest

from gridwright.digest import Digest
from gridwright.errors import ConfigurationError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.expiring import ExpiringResultStore
from gridwright_actioncache.results.provenance import Provenance, with_provenance
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome
from tests.actioncache.contract import DecoratorContract, DocumentsContract, ReplacingContract, an_action
from tests.actioncache.result_stores import a_memory

DAY = 86_400


class TestExpiringResultStore(ReplacingContract, DocumentsContract, DecoratorContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return self.decorated(a_memory())

    def decorated(self, inner: ResultStore) -> ResultStore:
        return ExpiringResultStore(inner, FakeClock(), max_seconds=DAY, jitter_seconds=60)


def completed(at: float, field: str = "worker_completed_timestamp") -> bytes:
    result = pb.ActionResult()
    getattr(result.execution_metadata, field).FromNanoseconds(int(at * 1e9))
    return result.SerializeToString()


async def found(store: ResultStore, result: bytes, action: Digest | None = None) -> bool:
    action = action or an_action()
    await store.put("main", action, result)
    return action in await store.get_many("main", [action])


@pytest.mark.parametrize("field", ["worker_completed_timestamp", "execution_completed_timestamp"])
async def test_a_result_is_found_until_it_is_too_old(field: str) -> None:
    clock = FakeClock()
    store = ExpiringResultStore(a_memory(), clock, max_seconds=DAY)
    assert await found(store, completed(clock.now() - DAY + 1, field))
    assert not await found(store, completed(clock.now() - DAY, field))
    assert store.expired == 1


async def test_what_expired_is_found_again_once_it_was_built_anew() -> None:
    clock, action = FakeClock(), an_action()
    store = ExpiringResultStore(a_memory(), clock, max_seconds=DAY)
    assert await found(store, completed(clock.now()), action)
    clock.advance(DAY)
    assert await store.get_many("main", [action]) == {}
    assert await found(store, completed(clock.now()), action)


async def test_results_of_one_moment_expire_one_after_the_other_and_each_at_its_own_time() -> None:
    clock, actions = FakeClock(), [an_action() for _ in range(500)]
    store = ExpiringResultStore(a_memory(), clock, max_seconds=10 * DAY, jitter_seconds=4 * DAY)
    for action in actions:
        await store.put("main", action, completed(clock.now()))
    clock.advance(6 * DAY)
    good = [set(await store.get_many("main", actions))]
    for _ in range(4):
        clock.advance(DAY)
        good.append(set(await store.get_many("main", actions)))
        assert good[-1] < good[-2]
        assert good[-1] == set(await store.get_many("main", actions))
    assert 480 <= len(good[0]) <= 500
    assert 200 < len(good[2]) < 300
    assert not good[4]


async def test_all_from_before_the_minimum_timestamp_is_gone_and_what_comes_after_is_not() -> None:
    clock = FakeClock()
    store = ExpiringResultStore(a_memory(), clock, minimum_timestamp=clock.now())
    assert not await found(store, completed(clock.now() - 0.001))
    assert await found(store, completed(clock.now()))
    assert not await found(store, pb.ActionResult().SerializeToString())
    assert not await found(store, b"no result at all \xff")


async def test_a_result_of_unknown_age_does_not_age() -> None:
    store = ExpiringResultStore(a_memory(), FakeClock(), max_seconds=1)
    assert await found(store, pb.ActionResult(exit_code=3).SerializeToString())


def test_a_jitter_that_leaves_no_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="jitter"):
        ExpiringResultStore(a_memory(), FakeClock(), max_seconds=60, jitter_seconds=60)


def stored(at: float, result: bytes) -> bytes:
    return with_provenance(result, Provenance("ann", "writer", at, ""))


async def test_a_result_is_as_old_as_the_earlier_of_when_it_was_made_and_stored() -> None:
    clock = FakeClock()
    store = ExpiringResultStore(a_memory(), clock, max_seconds=DAY)
    now = clock.now()
    assert await found(store, stored(now, completed(now)))
    assert not await found(store, stored(now, completed(now - DAY)))
    assert not await found(store, stored(now - DAY, completed(now + 10 * DAY)))


async def test_a_result_that_does_not_say_when_it_was_made_is_as_old_as_its_being_stored() -> None:
    clock = FakeClock()
    now = clock.now()
    store = ExpiringResultStore(a_memory(), clock, minimum_timestamp=now)
    assert await found(store, stored(now, b"\x20\x01"))
    assert not await found(store, stored(now - 1, b"\x20\x01"))
    assert not await found(store, b"\x20\x01")


async def test_what_expired_is_explained() -> None:
    clock, action = FakeClock(), an_action()
    store = ExpiringResultStore(a_memory(), clock, max_seconds=DAY)
    await store.put("main", action, stored(clock.now() - DAY, b""))
    assert (await store.explain("main", action)).outcome is Outcome.EXPIRED
    assert store.expired == 0
