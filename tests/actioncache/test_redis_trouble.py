"""A Redis that does not answer, or not as it should: nobody waits for it, and nobody has to mend anything."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from gridwright.clock import SystemClock
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable
from gridwright.store_settings.redis import RedisStoreSettings
from gridwright_actioncache.redis_opening import redis_database, redis_options
from gridwright_actioncache.results.redis_store import RedisResultStore
from gridwright_actioncache.results.write_once import WriteOnceResultStore
from tests.actioncache.contract import an_action
from tests.actioncache.redis_servers import RedisServer, a_health, redis_server

#: What hangs takes longer, what is answered does not, also on a machine that runs other tests.
SOON = 5.0


def opened(url: str, **settings: object) -> AbstractAsyncContextManager[RedisResultStore]:
    said = RedisStoreSettings.model_validate({"url": url, **settings})
    return RedisResultStore.open(redis_database(said), SystemClock(), redis_options(said), a_health())


async def eventually(check: Callable[[], bool]) -> None:
    """Return when *check* is true, which takes some time."""
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110  # what other processes do raises no event here
            await asyncio.sleep(0.01)


async def put_at_last(store: RedisResultStore, action: Digest, result: bytes) -> None:
    """Keep a result, as soon as Redis takes some."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.put("main", action, result)
            except GridwrightError:
                await asyncio.sleep(0.01)


async def found_at_last(store: RedisResultStore, action: Digest) -> bytes | None:
    """Return what is kept, as soon as Redis answers."""
    async with asyncio.timeout(20):
        while True:
            try:
                return (await store.get_many("main", [action])).get(action)
            except GridwrightError:
                await asyncio.sleep(0.01)


def is_down(store: RedisResultStore) -> bool:
    return any(lane.circuit.is_open for lane in store.lanes)


async def test_a_redis_that_is_not_there_yet_hinders_nobody(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.kill()
    action = an_action()
    async with opened(server.url) as store:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1.*does not answer|has not answered"):
            await store.get_many("main", [action])
        with pytest.raises(Unavailable):
            await store.put("main", action, b"x")
        with pytest.raises(Unavailable):
            await store.remove("main", [an_action()])
        assert store.health.state == "failing"
        server.start()
        try:
            # What could not be kept is kept by now, without anybody's asking again.
            await eventually(lambda: server.cli("dbsize") == "1")
            assert await found_at_last(store, action) == b"x"
            assert store.health.state == "ok"
        finally:
            server.kill()


async def test_a_lookup_is_a_miss_if_the_operator_prefers_that(tmp_path: Path) -> None:
    action = an_action()
    with redis_server(tmp_path) as server:
        async with opened(server.url, on_backend_failure="miss") as store:
            await store.put("main", action, b"x")
            server.kill()
            assert await store.get_many("main", [action]) == {}
            await store.put("main", action, b"y")
            assert store.statistics.missed_in_trouble == 1
            # Whoever revokes a result has to know that it may be there again.
            with pytest.raises(Unavailable):
                await store.remove("main", [action])
            server.start()


async def test_a_dead_redis_costs_only_the_first_caller_time(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(server.url) as store:
            await put_at_last(store, an_action(), b"x")
            server.freeze()
            begun = time.monotonic()
            for _ in range(200):
                with pytest.raises(Unavailable):
                    await store.get_many("main", [an_action()])
                with pytest.raises(Unavailable):
                    await store.put("main", an_action(), b"x")
            # One after the other, with the whole time for each, it would be 80 seconds.
            assert time.monotonic() - begun < SOON
            server.thaw()
            await eventually(lambda: not is_down(store))
            await put_at_last(store, an_action(), b"x")


async def test_a_redis_that_lost_everything_has_misses(tmp_path: Path) -> None:
    action = an_action()
    with redis_server(tmp_path) as server:
        async with opened(server.url) as store:
            await put_at_last(store, action, b"x")
            server.kill()
            server.start()
            assert await found_at_last(store, action) is None
            await put_at_last(store, action, b"y")
            assert await found_at_last(store, action) == b"y"


async def test_a_result_that_redis_does_not_take_in_time_is_dropped_and_counted(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(server.url, write_retry_seconds=0.1) as store:
            server.kill()
            for _ in range(10):
                with pytest.raises(Unavailable):
                    await store.put("main", an_action(), b"x")
            await eventually(lambda: store.statistics.dropped == 10)
            assert not any(lane.waiting_writes for lane in store.lanes)
            server.start()
            await eventually(lambda: not is_down(store))
            assert server.cli("dbsize") == "0"


async def test_what_waits_for_redis_is_bounded(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(server.url, write_retry_seconds=600) as store:
            server.kill()
            outcomes: set[type[GridwrightError]] = set()
            for _ in range(70):
                with pytest.raises((Unavailable, ResourceExhausted)) as error:
                    await store.put("main", an_action(), bytes(1_000_000))
                outcomes.add(error.type)
            assert outcomes == {Unavailable, ResourceExhausted}
            assert sum(lane.waiting_writes for lane in store.lanes) < 70


async def test_the_last_of_the_writes_that_waited_is_kept(tmp_path: Path) -> None:
    kept, gone = an_action(), an_action()
    with redis_server(tmp_path) as server:
        async with opened(server.url) as store:
            server.kill()
            for number in range(3):
                for action in (kept, gone):
                    with pytest.raises(Unavailable):
                        await store.put("main", action, bytes([number]))
            with pytest.raises(Unavailable):
                await store.remove("main", [gone])
            server.start()
            await eventually(lambda: not any(lane.waiting_writes for lane in store.lanes))
            assert await found_at_last(store, kept) == b"\x02"
            assert await found_at_last(store, gone) is None


async def test_a_full_redis_takes_nothing_and_is_still_read(tmp_path: Path) -> None:
    action, refused = an_action(), an_action()
    with redis_server(tmp_path) as server:
        async with opened(server.url, timeout_seconds=5) as store:
            await store.put("main", action, b"x")
            server.cli("config", "set", "maxmemory", "1")
            with pytest.raises(ResourceExhausted, match="maxmemory"):
                await store.put("main", refused, b"y")
            assert await store.get_many("main", [action, refused]) == {action: b"x"}
            assert not is_down(store)
            server.cli("config", "set", "maxmemory", "0")
            await eventually(lambda: not any(lane.waiting_writes for lane in store.lanes))
            assert await store.get_many("main", [refused]) == {refused: b"y"}
            assert store.statistics.dropped == 0


async def test_a_walk_along_large_results_is_answered_in_time(tmp_path: Path) -> None:
    large = os.urandom(250_000)
    with redis_server(tmp_path) as server:
        async with opened(server.url, timeout_seconds=5) as store:
            for _ in range(200):
                await store.put("main", an_action(), large)
        async with opened(server.url) as store:
            pages = [len(page) async for page in store.walk("main")]
    assert sum(pages) == 200
    # Nor are they all in memory at once.
    assert max(pages) < 40


async def test_results_are_revoked_also_while_redis_is_full(tmp_path: Path) -> None:
    actions = [an_action() for _ in range(5)]
    with redis_server(tmp_path) as server:
        async with opened(server.url, timeout_seconds=5) as store:
            for action in actions:
                await store.put("main", action, b"x")
            server.cli("config", "set", "maxmemory", "1")
            for _ in range(2):
                with pytest.raises(ResourceExhausted):
                    await store.put("main", an_action(), b"y")
            await store.remove("main", actions)
            assert await store.get_many("main", actions) == {}


async def test_what_may_be_written_once_is_not_written_over_while_nobody_knows_what_there_is(tmp_path: Path) -> None:
    action = an_action()
    with redis_server(tmp_path) as server:
        async with opened(server.url, on_backend_failure="miss") as store:
            once = WriteOnceResultStore(store)
            await put_at_last(store, action, b"first")
            server.freeze()
            with pytest.raises(Unavailable):
                await once.put("main", action, b"second")
            with pytest.raises(Unavailable):
                await store.explain("main", action)
            server.thaw()
            await eventually(lambda: not is_down(store) and not any(lane.waiting_writes for lane in store.lanes))
            assert await found_at_last(store, action) == b"first"


async def test_what_redis_evicts_is_a_miss(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru") as server:
        async with opened(server.url, timeout_seconds=20) as store:
            results = {an_action(): random.randbytes(5000) for _ in range(2000)}
            await asyncio.gather(*(store.put("main", action, result) for action, result in results.items()))
            found = await store.get_many("main", list(results))
            assert 0 < len(found) < len(results)
            assert all(results[action] == result for action, result in found.items())


async def test_a_replica_is_read_and_written_once_it_is_the_master(tmp_path: Path) -> None:
    action, later = an_action(), an_action()
    with redis_server(tmp_path / "master") as master, redis_server(tmp_path / "replica") as replica:
        async with opened(replica.url, timeout_seconds=5) as store:
            replica.cli("replicaof", "127.0.0.1", str(master.port))
            await eventually(lambda: "master_link_status:up" in replica.cli("info", "replication"))
            with pytest.raises(Unavailable, match="takes no writes, as a replica does"):
                await store.put("main", action, b"x")
            with pytest.raises(Unavailable, match="takes no writes, as a replica does"):
                await store.put("main", later, b"y")
            assert await store.get_many("main", [action]) == {}
            replica.cli("replicaof", "no", "one")
            await eventually(lambda: not any(lane.waiting_writes for lane in store.lanes))
            assert await store.get_many("main", [action, later]) == {action: b"x", later: b"y"}


async def test_a_wrong_password_is_told_with_what_to_look_at(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "right") as server:
        async with opened(f"redis://:wrong@127.0.0.1:{server.port}", timeout_seconds=5) as store:
            with pytest.raises(Unavailable, match="look at username, password_file") as error:
                await store.get_many("main", [an_action()])
            assert "wrong@" not in str(error.value) + repr(store) + str(store.health.report())


@asynccontextmanager
async def scripted(answer: bytes, *, then_close: bool = False) -> AsyncIterator[str]:
    """Serve, at the address given, something that looks like a Redis and answers *answer* to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"*"):
                    writer.write(answer)
                    if then_close:
                        break
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("answer", "then_close"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", False),
        (b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n", False),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", False),
        (b"-ERR max number of clients reached\r\n", True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        (b"*1\r\n$100\r\nhalf a result", True),
        (b"", True),
    ],
)
async def test_whatever_is_not_an_answer_is_unavailable(answer: bytes, then_close: bool) -> None:
    async with scripted(answer, then_close=then_close) as url, opened(url, write_retry_seconds=0) as store:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await store.get_many("main", [an_action()])
            with pytest.raises(Unavailable):
                await store.put("main", an_action(), b"x")
        assert store.health.state == "failing"


async def test_a_redis_that_is_killed_and_restarted_under_load_gives_no_wrong_hit(tmp_path: Path) -> None:
    """Each action's results say whose they are, so that a wrong one is seen; and everything is answered in time."""
    actions = {an_action(): random.randbytes(2000) for _ in range(200)}
    outcomes = {"hit": 0, "miss": 0, "unavailable": 0}
    slowest = 0.0
    stop = asyncio.Event()

    async def use(store: RedisResultStore) -> None:
        nonlocal slowest
        while not stop.is_set():
            some = random.sample(list(actions), 3)
            begun = time.monotonic()
            try:
                if random.random() < 0.2:
                    await store.put("main", some[0], actions[some[0]])
                else:
                    found = await store.get_many("main", some)
                    assert all(actions[action] == result for action, result in found.items())
                    outcomes["hit"] += len(found)
                    outcomes["miss"] += 3 - len(found)
            except (Unavailable, ResourceExhausted):
                outcomes["unavailable"] += 1
            slowest = max(slowest, time.monotonic() - begun)
            await asyncio.sleep(0)

    with redis_server(tmp_path) as server:
        async with opened(server.url) as store:
            users = [asyncio.create_task(use(store)) for _ in range(32)]
            for _ in range(5):
                await asyncio.sleep(0.3)
                server.kill()
                await asyncio.sleep(0.1)
                server.start()
                before = outcomes["hit"]
                await eventually(lambda before=before: outcomes["hit"] > before + 100)  # type: ignore[misc]
            server.freeze()
            await eventually(lambda: is_down(store))
            server.thaw()
            await eventually(lambda: not is_down(store))
            stop.set()
            await asyncio.gather(*users)
            assert store.statistics.damaged == 0
    assert min(outcomes.values()) > 0
    assert slowest < SOON
