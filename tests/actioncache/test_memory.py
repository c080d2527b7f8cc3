"""Results in memory."""

from __future__ import annotations

import pytest

from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import ResultStoreContract, an_action


class TestMemoryResultStore(ResultStoreContract):
    @pytest.fixture
    def store(self) -> ResultStore:
        return MemoryResultStore(max_count=1000)


async def test_the_least_recently_used_go_first() -> None:
    store = MemoryResultStore(max_count=3)
    a, b, c, d = (an_action() for _ in range(4))
    for action in (a, b, c):
        await store.put("main", action, b"")
    await store.get_many("main", [a])
    await store.put("main", d, b"")
    assert set(await store.get_many("main", [a, b, c, d])) == {a, c, d}
    assert "3 of 3" in repr(store)
