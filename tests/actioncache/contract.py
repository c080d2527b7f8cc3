"""What every ResultStore promises, as tests: subclass it, give a ``store`` fixture, and pass."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright_actioncache.results.provenance import Provenance, split_document, with_provenance
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore
from gridwright_actioncache.results.verdict import Outcome
from tests.actioncache.result_stores import BrokenResultStore, CountingResultStore, a_memory

SHA256 = DigestFunction.SHA256
#: Around what stores have as bounds: a partition's size, a block of a disk less a header, a message.
SIZES = (0, 1, 1023, 1024, 1025, 4087, 4088, 4089, 65_536, 1_000_000)


def an_action(function: DigestFunction = SHA256) -> Digest:
    """Return the digest of an action that nobody has seen."""
    return function.digest(os.urandom(20))


def a_result(size_bytes: int) -> bytes:
    """Return the bytes of an ActionResult, some *size_bytes* long, that names no blob."""
    # Field 5, stdout_raw; what is larger than its length can say in a byte is a few bytes longer.
    if size_bytes < 4:
        return b"\x20\x01"[: size_bytes & ~1]
    length = size_bytes - 4
    varint = bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F))
    return b"\x2a" + varint + os.urandom(length)


async def walked(store: ResultStore, instance: str = "main") -> dict[Digest, bytes]:
    """Return all that *store* says it holds of *instance*."""
    held: dict[Digest, bytes] = {}
    async for page in store.walk(instance):
        assert 0 < len(page) <= PAGE_RESULTS
        held.update(page)
    return held


class ResultStoreContract:
    """Tests of one store; the subclass provides the fixture ``store``, whose results are complete."""

    async def test_a_result_comes_out_as_the_bytes_that_went_in(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x07")
        assert await store.get_many("main", [action]) == {action: b"\x20\x07"}

    @pytest.mark.parametrize("size_bytes", SIZES)
    async def test_a_result_may_have_any_size(self, store: ResultStore, size_bytes: int) -> None:
        action, result = an_action(), a_result(size_bytes)
        await store.put("main", action, result)
        assert await store.get_many("main", [action]) == {action: result}

    async def test_what_was_never_put_is_left_out(self, store: ResultStore) -> None:
        known, unknown = an_action(), an_action()
        await store.put("main", known, b"\x20\x01")
        assert await store.get_many("main", [unknown, known]) == {known: b"\x20\x01"}
        assert await store.get_many("main", []) == {}

    async def test_results_of_instances_are_apart(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x01")
        await store.put("a/b", action, b"\x20\x02")
        assert await store.get_many("main", [action]) == {action: b"\x20\x01"}
        assert await store.get_many("a/b", [action]) == {action: b"\x20\x02"}
        assert await store.get_many("", [action]) == {}

    @pytest.mark.parametrize("function", list(DigestFunction))
    async def test_every_digest_function_serves(self, store: ResultStore, function: DigestFunction) -> None:
        action = an_action(function)
        await store.put("main", action, b"\x20\x01")
        assert await store.get_many("main", [action]) == {action: b"\x20\x01"}

    async def test_function_and_size_are_part_of_the_key(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x01")
        others = [action._replace(size_bytes=21), action._replace(function=DigestFunction.BLAKE3)]
        assert await store.get_many("main", others) == {}

    async def test_many_writers_and_readers_get_along(self, store: ResultStore) -> None:
        actions = [an_action() for _ in range(100)]
        await asyncio.gather(*(store.put("main", action, b"") for action in actions))
        assert set(await store.get_many("main", actions)) == set(actions)

    async def test_what_was_removed_is_gone_and_nothing_else_is(self, store: ResultStore) -> None:
        gone, kept = [an_action() for _ in range(10)], an_action()
        for action in [*gone, kept]:
            await store.put("main", action, b"\x20\x01")
        await store.put("a/b", gone[0], b"\x20\x02")
        await store.remove("main", [*gone, an_action()])
        assert await store.get_many("main", [*gone, kept]) == {kept: b"\x20\x01"}
        assert await store.get_many("a/b", gone) == {gone[0]: b"\x20\x02"}

    async def test_what_was_removed_may_come_back(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x01")
        await store.remove("main", [action])
        await store.put("main", action, b"\x20\x02")
        assert await store.get_many("main", [action]) == {action: b"\x20\x02"}

    async def test_it_explains_a_hit_and_a_miss(self, store: ResultStore) -> None:
        known, unknown = an_action(), an_action()
        await store.put("main", known, b"\x20\x07")
        verdict = await store.explain("main", known)
        assert (verdict.outcome, verdict.document) == (Outcome.HIT, b"\x20\x07")
        verdict = await store.explain("main", unknown)
        assert (verdict.outcome, verdict.document) == (Outcome.ABSENT, None)


class DocumentsContract:
    """The tests of a store that keeps documents itself: where results came from as well, and it can tell what there is.

    One that passes results on to a cache of somebody else's can do neither.
    """

    async def test_where_a_result_came_from_is_kept_with_it(self, store: ResultStore) -> None:
        action, provenance = an_action(), Provenance("ann", "writer", 1_700_000_000.5, "worker-7")
        await store.put("main", action, with_provenance(b"\x20\x07", provenance))
        found = await store.get_many("main", [action])
        assert split_document(found[action]) == (b"\x20\x07", provenance)

    @pytest.mark.parametrize("function", list(DigestFunction))
    async def test_a_walk_tells_all_that_is_held_of_an_instance(
        self, store: ResultStore, function: DigestFunction
    ) -> None:
        held = {an_action(function): bytes([0x20, number]) for number in range(1, 4)}
        await asyncio.gather(*(store.put("main", action, result) for action, result in held.items()))
        await store.put("a/b", an_action(function), b"\x20\x05")
        assert await walked(store) == held
        assert await walked(store, "") == {}

    async def test_a_walk_comes_in_pages(self, store: ResultStore) -> None:
        actions = [an_action() for _ in range(PAGE_RESULTS + 10)]
        await asyncio.gather(*(store.put("main", action, b"\x20\x01") for action in actions))
        # A store that is bounded has dropped some.
        assert await walked(store) == await store.get_many("main", actions) != {}

    async def test_what_a_walk_tells_can_be_removed_on_the_way(self, store: ResultStore) -> None:
        actions = [an_action() for _ in range(PAGE_RESULTS + 10)]
        await asyncio.gather(*(store.put("main", action, b"\x20\x01") for action in actions))
        await store.put("a/b", actions[0], b"\x20\x01")
        async for page in store.walk("main"):
            await store.remove("main", page)
        assert await store.get_many("main", actions) == {}
        assert await walked(store) == {}
        assert set(await walked(store, "a/b")) == {actions[0]}


class ReplacingContract(ResultStoreContract):
    """The tests of a store whose results can be replaced (checklist ACU-08)."""

    async def test_the_last_write_wins(self, store: ResultStore) -> None:
        action = an_action()
        for number in range(1, 4):
            await store.put("main", action, bytes([0x20, number]))
        assert await store.get_many("main", [action]) == {action: b"\x20\x03"}

    async def test_a_result_may_be_replaced_by_one_of_another_size(self, store: ResultStore) -> None:
        action = an_action()
        for size_bytes in (10, 1_000_000, 2, 5000, 1023, 1024, 0):
            result = a_result(size_bytes)
            await store.put("main", action, result)
            assert await store.get_many("main", [action]) == {action: result}

    async def test_of_writers_at_the_same_time_one_wins_for_all_readers(self, store: ResultStore) -> None:
        action = an_action()
        results = [a_result(size_bytes) for size_bytes in (10, 100, 2000, 5000) * 4]
        await asyncio.gather(*(store.put("main", action, result) for result in results))
        found = await store.get_many("main", [action])
        assert found[action] in results
        for _ in range(3):
            assert await store.get_many("main", [action]) == found

    async def test_whoever_reads_sees_the_old_result_or_the_new_one(self, store: ResultStore) -> None:
        action, results = an_action(), [a_result(size_bytes) for size_bytes in (5000, 6000, 7000)]
        await store.put("main", action, results[0])
        seen = []

        async def read_on() -> None:
            for _ in range(100):
                seen.append((await store.get_many("main", [action])).get(action))
                await asyncio.sleep(0)

        async def write_on() -> None:
            for number in range(30):
                await store.put("main", action, results[number % 3])

        await asyncio.gather(read_on(), read_on(), write_on())
        assert set(seen) <= set(results)


class DecoratorContract:
    """Tests of how a decorator treats the store it holds."""

    @abstractmethod
    def decorated(self, inner: ResultStore) -> ResultStore:
        """Return the decorator around *inner*."""

    async def test_bulk_stays_bulk(self) -> None:
        inner = CountingResultStore(a_memory())
        store = self.decorated(inner)
        actions = [an_action() for _ in range(100)]
        for action in actions:
            await store.put("main", action, b"\x20\x01")
        inner.calls.clear()
        assert len(await store.get_many("main", actions)) == 100
        await store.remove("main", actions)
        assert inner.calls["get_many"] <= 1
        assert inner.calls["remove"] <= 1

    @pytest.mark.parametrize("error", [Unavailable("down"), ResourceExhausted("full")])
    async def test_a_store_that_fails_is_never_one_that_lacks_the_result(
        self, error: Unavailable | ResourceExhausted
    ) -> None:
        store = self.decorated(BrokenResultStore(error))
        with pytest.raises((Unavailable, ResourceExhausted)):
            await store.get_many("main", [an_action()])
        with pytest.raises((Unavailable, ResourceExhausted)):
            await store.put("main", an_action(), b"\x20\x01")
        with pytest.raises((Unavailable, ResourceExhausted)):
            await store.remove("main", [an_action()])
        with pytest.raises((Unavailable, ResourceExhausted)):
            await walked(store)
        with pytest.raises((Unavailable, ResourceExhausted)):
            await store.explain("main", an_action())

    def test_it_says_what_it_holds(self) -> None:
        inner = a_memory()
        assert repr(inner) in repr(self.decorated(inner))
