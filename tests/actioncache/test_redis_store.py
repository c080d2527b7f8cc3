"""Results in a Redis of one server: what is promised beyond the contract while it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.clock import SystemClock
from gridwright.store_settings.redis import RedisStoreSettings
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.redis_opening import redis_database, redis_options
from gridwright_actioncache.results.redis_records import to_key
from gridwright_actioncache.results.redis_store import RedisResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action
from tests.actioncache.redis_servers import RedisServer, a_health, redis_server

#: Longer than any pause of a machine that runs other tests.
PATIENT = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_kept(server: RedisServer) -> None:
    server.cli("flushall")


def opened(
    server: RedisServer, *, clock: FakeClock | None = None, **settings: object
) -> AbstractAsyncContextManager[RedisResultStore]:
    said = RedisStoreSettings.model_validate({"url": server.url, "timeout_seconds": PATIENT, **settings})
    return RedisResultStore.open(redis_database(said), clock or SystemClock(), redis_options(said), a_health())


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisResultStore]:
    async with opened(server) as store:
        yield store


class TestRedisStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisResultStore]:
        async with opened(server) as store:
            yield store


class TestExpiringRedisStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisResultStore]:
        async with opened(server, expire_seconds=3600) as store:
            yield store


def calls(server: RedisServer, command: str) -> int:
    """Return how often clients sent *command*."""
    for line in server.cli("info", "commandstats").splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.split("=")[1].split(",")[0])
    return 0


async def test_results_are_shared_by_all_who_use_the_redis(server: RedisServer, store: RedisResultStore) -> None:
    action = an_action()
    await store.put("main", action, b"\x20\x01")
    async with opened(server) as other:
        assert await other.get_many("main", [action]) == {action: b"\x20\x01"}
    async with opened(server, key_prefix="another/grid") as stranger:
        assert await stranger.get_many("main", [action]) == {}


async def test_lookups_that_come_together_travel_in_one_call(server: RedisServer, store: RedisResultStore) -> None:
    actions = [an_action() for _ in range(64)]
    await asyncio.gather(*(store.put("main", action, action.hash.encode()) for action in actions))
    server.cli("config", "resetstat")
    found = await asyncio.gather(*(store.get_many("main", [action]) for action in actions))
    assert found == [{action: action.hash.encode()} for action in actions]
    assert calls(server, "mget") <= 2


async def test_a_lookup_of_very_many_is_answered_in_parts(server: RedisServer, store: RedisResultStore) -> None:
    actions = [an_action() for _ in range(1050)]
    await asyncio.gather(*(store.put("main", action, action.hash.encode()) for action in actions))
    server.cli("config", "resetstat")
    assert len(await store.get_many("main", actions)) == 1050
    assert calls(server, "mget") == 11


async def test_of_two_writes_that_wait_for_the_same_result_the_later_travels(
    server: RedisServer, store: RedisResultStore
) -> None:
    action = an_action()
    server.cli("config", "resetstat")
    await asyncio.gather(*(store.put("main", action, bytes([number])) for number in range(50)))
    assert await store.get_many("main", [action]) == {action: b"\x31"}
    assert calls(server, "set") <= 2


async def test_a_thousand_results_are_removed_in_one_call(server: RedisServer, store: RedisResultStore) -> None:
    actions = [an_action() for _ in range(1000)]
    await asyncio.gather(*(store.put("main", action, b"x") for action in actions))
    before = int(server.cli("info", "stats").split("total_reads_processed:")[1].split()[0])
    await store.remove("main", actions)
    after = int(server.cli("info", "stats").split("total_reads_processed:")[1].split()[0])
    # A read of its socket is 16 kB, and what is removed names 1,000 keys of 100 bytes.
    assert after - before < 50
    assert server.cli("dbsize") == "0"


async def test_keys_tell_operators_whose_result_they_hold(server: RedisServer, store: RedisResultStore) -> None:
    action = an_action()
    await store.put("team/b {1}*", action, b"x")
    assert server.cli("--scan") == f"gridwright:team/b%20%7B1%7D%2A:sha256:{action.hash}:{action.size_bytes}"


async def test_what_somebody_else_wrote_is_a_miss_and_counted(server: RedisServer, store: RedisResultStore) -> None:
    ours, theirs, moved = an_action(), an_action(), an_action()
    await store.put("main", ours, b"ours")
    server.cli("set", to_key("gridwright", "main", theirs).decode(), "whatever")
    server.cli("copy", to_key("gridwright", "main", ours).decode(), to_key("gridwright", "main", moved).decode())
    assert await store.get_many("main", [ours, theirs, moved]) == {ours: b"ours"}
    assert store.statistics.damaged == 2


async def test_a_result_expires_when_it_was_not_used(server: RedisServer) -> None:
    clock = FakeClock()
    async with opened(server, clock=clock, expire_seconds=1000) as store:
        used, unused = an_action(), an_action()
        for action in (used, unused):
            await store.put("main", action, b"x")
            server.cli("expire", to_key("gridwright", "main", action).decode(), "300")
        await store.get_many("main", [used])
        await store.put("main", an_action(), b"x")
        assert int(server.cli("ttl", to_key("gridwright", "main", used).decode())) > 900
        assert int(server.cli("ttl", to_key("gridwright", "main", unused).decode())) <= 300


async def test_the_expiry_of_a_result_in_use_is_seldom_put_off(server: RedisServer) -> None:
    clock = FakeClock()
    async with opened(server, clock=clock, expire_seconds=1000) as store:
        action = an_action()
        await store.put("main", action, b"x")
        server.cli("config", "resetstat")
        for _ in range(100):
            await store.get_many("main", [action])
            clock.advance(10)
        await store.put("main", an_action(), b"x")
    assert calls(server, "pexpire") == 4


async def test_without_an_expiry_nothing_is_written_on_a_hit(server: RedisServer, store: RedisResultStore) -> None:
    action = an_action()
    await store.put("main", action, b"x")
    server.cli("config", "resetstat")
    await store.get_many("main", [action])
    assert calls(server, "pexpire") == 0
    assert server.cli("ttl", to_key("gridwright", "main", action).decode()) == "-1"


async def test_a_writer_that_leaves_takes_nothing_back(server: RedisServer, store: RedisResultStore) -> None:
    action = an_action()
    writing = asyncio.create_task(store.put("main", action, b"x"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    await store.put("main", an_action(), b"x")
    assert await store.get_many("main", [action]) == {action: b"x"}


async def test_what_was_taken_is_written_before_the_store_is_closed(server: RedisServer) -> None:
    actions = [an_action() for _ in range(100)]
    async with opened(server) as store:
        writers = [asyncio.create_task(store.put("main", action, b"x")) for action in actions]
        await asyncio.sleep(0)
    await asyncio.gather(*writers)
    assert server.cli("dbsize") == "100"


async def test_a_password_is_read_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    with redis_server(tmp_path / "redis", "--requirepass", "correct horse") as server:
        for said, environ in (
            ({"password_file": str(secret)}, {}),
            ({"password_env": "REDIS_PASSWORD"}, {"REDIS_PASSWORD": "correct horse"}),
            ({"url": f"redis://:correct%20horse@127.0.0.1:{server.port}"}, {}),
        ):
            settings = RedisStoreSettings.model_validate({"url": server.url, "timeout_seconds": PATIENT, **said})
            database = redis_database(settings, environ)
            async with RedisResultStore.open(database, SystemClock(), redis_options(settings), a_health()) as store:
                action = an_action()
                await store.put("main", action, b"x")
                assert await store.get_many("main", [action]) == {action: b"x"}
                assert "horse" not in repr(store)


async def test_a_unix_socket_serves(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path / "s"
    with redis_server(tmp_path / "redis", "--unixsocket", str(path)):
        settings = RedisStoreSettings(url=f"unix://{path}", timeout_seconds=PATIENT)
        async with RedisResultStore.open(
            redis_database(settings), SystemClock(), redis_options(settings), a_health()
        ) as store:
            action = an_action()
            await store.put("main", action, b"x")
            assert await store.get_many("main", [action]) == {action: b"x"}
