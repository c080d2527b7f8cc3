"""Results in a cluster of Redis: spread over its servers, found where they have moved to, and apart in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.clock import SystemClock
from gridwright.digest import Digest
from gridwright.errors import Unavailable
from gridwright.store_settings.redis import RedisStoreSettings
from gridwright_actioncache.redis_opening import redis_database, redis_options
from gridwright_actioncache.results.redis_records import to_key
from gridwright_actioncache.results.redis_store import RedisResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action
from tests.actioncache.redis_servers import RedisServer, a_health, redis_cluster


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RedisServer]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture(autouse=True)
def nothing_kept(servers: Sequence[RedisServer]) -> None:
    for server in servers:
        server.cli("flushall")


def opened(servers: Sequence[RedisServer], **settings: object) -> AbstractAsyncContextManager[RedisResultStore]:
    url = f"redis+cluster://{','.join(f'127.0.0.1:{one.port}' for one in servers)}"
    said = RedisStoreSettings.model_validate({"url": url, "timeout_seconds": 20, **settings})
    return RedisResultStore.open(redis_database(said), SystemClock(), redis_options(said), a_health())


class TestRedisCluster(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, servers: Sequence[RedisServer]) -> AsyncIterator[RedisResultStore]:
        async with opened(servers[:1], expire_seconds=3600) as store:
            yield store


def slot_of(server: RedisServer, action: Digest) -> str:
    return server.cli("cluster", "keyslot", to_key("gridwright", "main", action).decode())


def holder_of(servers: Sequence[RedisServer], action: Digest) -> RedisServer:
    [holder] = [one for one in servers if one.cli("exists", to_key("gridwright", "main", action).decode()) == "1"]
    return holder


async def test_results_are_spread_over_all_servers(servers: Sequence[RedisServer]) -> None:
    actions = [an_action() for _ in range(100)]
    async with opened(servers) as store:
        await asyncio.gather(*(store.put("main", action, b"x") for action in actions))
    assert all(int(server.cli("dbsize")) > 0 for server in servers)


async def test_a_result_is_found_while_its_slot_moves_and_after(servers: Sequence[RedisServer]) -> None:
    """ASK, then MOVED, which the client follows."""
    action, result = an_action(), b"x" * 100
    async with opened(servers) as store:
        await store.put("main", action, result)
        source = holder_of(servers, action)
        target = next(server for server in servers if server is not source)
        slot, key = slot_of(source, action), to_key("gridwright", "main", action).decode()
        source_id, target_id = source.cli("cluster", "myid"), target.cli("cluster", "myid")
        target.cli("cluster", "setslot", slot, "importing", source_id)
        source.cli("cluster", "setslot", slot, "migrating", target_id)
        source.cli("migrate", "127.0.0.1", str(target.port), key, "0", "5000")
        assert await store.get_many("main", [action]) == {action: result}
        await store.put("main", action, b"y")
        for server in (target, source, *servers):
            server.cli("cluster", "setslot", slot, "node", target_id)
        assert await store.get_many("main", [action]) == {action: b"y"}
        await store.put("main", action, b"z")
        assert await store.get_many("main", [action]) == {action: b"z"}
        assert holder_of(servers, action) is target
        await store.remove("main", [action])
        assert await store.get_many("main", [action]) == {}


async def test_a_server_that_hangs_takes_only_its_own_results_with_it(servers: Sequence[RedisServer]) -> None:
    actions = [an_action() for _ in range(60)]
    async with opened(servers, timeout_seconds=0.5, write_retry_seconds=30) as store:
        async with asyncio.timeout(20):
            for action in actions:
                await store.put("main", action, b"x")
        dead = holder_of(servers, actions[0])
        lost = [action for action in actions if holder_of(servers, action) is dead]
        dead.freeze()
        try:
            with pytest.raises(Unavailable):
                await store.get_many("main", [lost[0]])
            for action in actions:
                if action not in lost:
                    assert await store.get_many("main", [action]) == {action: b"x"}
                    await store.put("main", action, b"y")
            assert store.health.state == "failing"
            with pytest.raises(Unavailable):
                await store.put("main", lost[0], b"y")
        finally:
            dead.thaw()
        async with asyncio.timeout(20):
            while not await is_found(store, lost[0], b"y"):  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(0.02)
        assert len(await store.get_many("main", actions)) == 60
        assert store.health.state == "ok"


async def is_found(store: RedisResultStore, action: Digest, result: bytes) -> bool:
    try:
        return await store.get_many("main", [action]) == {action: result}
    except Unavailable:
        return False


async def test_a_cluster_that_is_not_there_yet_hinders_nobody(servers: Sequence[RedisServer]) -> None:
    for server in servers:
        server.freeze()
    try:
        async with opened(servers, timeout_seconds=0.3, on_backend_failure="miss") as store:
            for _ in range(20):
                assert await store.get_many("main", [an_action()]) == {}
            for server in servers:
                server.thaw()
            action = an_action()
            await store.put("main", action, b"x")
            async with asyncio.timeout(20):
                while not await is_found(store, action, b"x"):  # noqa: ASYNC110  # another process sets no event
                    await asyncio.sleep(0.02)
    finally:
        for server in servers:
            server.thaw()


async def test_after_a_failover_the_new_master_has_the_results(tmp_path: Path) -> None:
    before, after = an_action(), an_action()
    with redis_cluster(tmp_path, replicas=1) as servers:
        async with opened(servers[:2], timeout_seconds=1, write_retry_seconds=60) as store:
            await store.put("main", before, b"before")
            key = to_key("gridwright", "main", before).decode()
            [dead] = [
                one
                for one in servers
                if "role:master" in one.cli("info", "replication") and one.cli("--scan", "--pattern", key)
            ]
            assert dead.cli("wait", "1", "5000") == "1"
            dead.kill()
            with pytest.raises(Unavailable):
                await store.get_many("main", [before])
            async with asyncio.timeout(40):
                while not await is_found(store, before, b"before"):  # noqa: ASYNC110  # another process sets no event
                    await asyncio.sleep(0.02)
            await store.put("main", after, b"after")
            assert await store.get_many("main", [before, after]) == {before: b"before", after: b"after"}
            assert store.health.state == "ok"
