"""What every ResultStore promises, as tests: subclass it, give a ``store`` fixture, and pass."""

from __future__ import annotations

import asyncio
import os

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright_actioncache.results.store import ResultStore

SHA256 = DigestFunction.SHA256


def an_action(function: DigestFunction = SHA256) -> Digest:
    """Return the digest of an action that nobody has seen."""
    return function.digest(os.urandom(20))


class ResultStoreContract:
    """Tests of one store; the subclass provides the fixture ``store``, whose results are complete."""

    async def test_a_result_comes_out_as_the_bytes_that_went_in(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"\x20\x07")
        assert await store.get_many("main", [action]) == {action: b"\x20\x07"}

    async def test_a_result_may_be_empty(self, store: ResultStore) -> None:
        action = an_action()
        await store.put("main", action, b"")
        assert await store.get_many("main", [action]) == {action: b""}

    async def test_what_was_never_put_is_left_out(self, store: ResultStore) -> None:
        known, unknown = an_action(), an_action()
        await store.put("main", known, b"\x20\x01")
        assert await store.get_many("main", [unknown, known]) == {known: b"\x20\x01"}
        assert await store.get_many("main", []) == {}

    async def test_the_last_write_wins(self, store: ResultStore) -> None:
        action = an_action()
        for number in range(1, 4):
            await store.put("main", action, bytes([0x20, number]))
        assert await store.get_many("main", [action]) == {action: b"\x20\x03"}

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
        await asyncio.gather(*(store.put("main", action, action.hash.encode()[:0]) for action in actions))
        assert set(await store.get_many("main", actions)) == set(actions)
