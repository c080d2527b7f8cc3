"""Results in a Redis whose master sentinels name: after a failover the new one is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from gridwright.clock import SystemClock
from gridwright.errors import GridwrightError
from gridwright.store_settings.redis import RedisStoreSettings
from gridwright_actioncache.redis_opening import redis_database, redis_options
from gridwright_actioncache.results.redis_store import RedisResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action
from tests.actioncache.redis_servers import RedisServer, a_health, redis_server

SENTINEL = """
sentinel monitor results 127.0.0.1 {port} 2
sentinel down-after-milliseconds results 500
sentinel failover-timeout results 2000
"""


@contextmanager
def watched(directory: Path, master: RedisServer) -> Iterator[Sequence[RedisServer]]:
    """Run three sentinels that watch *master*."""
    said = SENTINEL.format(port=master.port)
    sentinels = [RedisServer(directory / f"sentinel{number}", sentinel_of=said) for number in range(3)]
    try:
        yield sentinels
    finally:
        for sentinel in sentinels:
            sentinel.kill()


def opened(sentinels: Sequence[RedisServer], **settings: object) -> AbstractAsyncContextManager[RedisResultStore]:
    url = f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in sentinels)}/results"
    said = RedisStoreSettings.model_validate({"url": url, **settings})
    return RedisResultStore.open(redis_database(said), SystemClock(), redis_options(said), a_health())


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def sentinels(master: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RedisServer]]:
    with watched(tmp_path_factory.mktemp("sentinels"), master) as sentinels:
        yield sentinels


class TestRedisBehindSentinels(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, master: RedisServer, sentinels: Sequence[RedisServer]) -> AsyncIterator[RedisResultStore]:
        master.cli("flushall")
        async with opened(sentinels, timeout_seconds=20) as store:
            yield store


async def test_a_sentinel_that_is_gone_or_hangs_hinders_nobody(tmp_path: Path) -> None:
    action = an_action()
    with redis_server(tmp_path / "master") as master, watched(tmp_path, master) as sentinels:
        sentinels[0].kill()
        sentinels[1].freeze()
        async with opened(sentinels, timeout_seconds=1) as store:
            async with asyncio.timeout(20):
                while not await kept(store, action.hash.encode()):
                    pass
            assert await store.get_many("main", [an_action()]) == {}


async def kept(store: RedisResultStore, result: bytes) -> bool:
    """Return whether a new result could be kept, and pause a little if it could not."""
    try:
        await store.put("main", an_action(), result)
    except GridwrightError:
        await asyncio.sleep(0.02)
        return False
    return True


async def test_after_a_failover_the_new_master_is_used(tmp_path: Path) -> None:
    before, after = an_action(), an_action()
    with (
        redis_server(tmp_path / "master") as master,
        redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {master.port}") as replica,
        watched(tmp_path, master) as sentinels,
    ):
        async with asyncio.timeout(20):
            while not all("slaves=1,sentinels=3" in one.cli("info", "sentinel") for one in sentinels):  # noqa: ASYNC110
                # Another process sets no event.
                await asyncio.sleep(0.05)
        async with opened(sentinels, write_retry_seconds=60) as store:
            async with asyncio.timeout(20):
                while not await kept(store, b"x"):
                    pass
            await store.put("main", before, b"before")
            assert master.cli("wait", "1", "5000") == "1"
            master.kill()
            with pytest.raises(GridwrightError):
                await store.put("main", after, b"after")
            async with asyncio.timeout(40):
                while not await kept(store, b"x"):
                    pass
            found = await store.get_many("main", [before, after])
        assert found == {before: b"before", after: b"after"}
        assert "role:master" in replica.cli("info", "replication")
