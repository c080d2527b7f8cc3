"""The action cache on a Redis, as clients and operators see it, also while Redis and the CAS come and go."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gridwright.digest import Digest
from gridwright.errors import NotFound, ResourceExhausted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.settings import validate_settings
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright_actioncache.app import open_app
from gridwright_actioncache.config import ActionCacheFile
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import message
from tests.actioncache.redis_servers import RedisServer, redis_server
from tests.actioncache.service import serving_cas


@pytest.fixture
def redis(run: Path) -> Iterator[RedisServer]:
    with redis_server(run / "redis") as server:
        yield server


@asynccontextmanager
async def actioncache(run: Path, redis: RedisServer, **said: object) -> AsyncIterator[ActionCacheClient]:
    data = {
        "endpoints": {"cas": f"unix:{run}/cas.sock"},
        "actioncache": {
            "listen": f"unix:{run}/actioncache.sock",
            "admin": f"unix:{run}/admin.sock",
            "store": {"completeness_checking": {"backend": {"redis": {"url": redis.url, **said}}}},
        },
    }
    settings = validate_settings(ActionCacheFile, data, source="the test")
    async with open_app(settings, Process()), GrpcChannel(f"unix:{run}/actioncache.sock") as channel:
        yield ActionCacheClient(channel)


async def get(client: ActionCacheClient, action: Digest) -> pb.ActionResult:
    return await client.get_action_result(pb.GetActionResultRequest(action_digest=message(action)), timeout=20)


async def update(client: ActionCacheClient, action: Digest, output: Digest) -> None:
    request = pb.UpdateActionResultRequest(action_digest=message(action))
    request.action_result.output_files.add(path="out", digest=message(output))
    await client.update_action_result(request, timeout=20)


async def test_while_redis_is_gone_the_pod_is_ready_and_says_what_it_lacks(run: Path, redis: RedisServer) -> None:
    cas, action = FakeCas(), an_action()
    transport = httpx.AsyncHTTPTransport(uds=f"{run}/admin.sock")
    async with (
        serving_cas(cas, run),
        actioncache(run, redis, timeout_seconds=10) as client,
        httpx.AsyncClient(transport=transport, base_url="http://admin") as admin,
    ):
        await update(client, action, await cas.keep(b"output"))
        assert (await get(client, action)).output_files[0].path == "out"
        [(name, dependency)] = [
            item for item in (await admin.get("/status")).json()["dependencies"].items() if "redis" in item[0]
        ]
        assert name == f"{redis.url} (gridwright)"
        assert dependency["state"] == "ok"
        redis.kill()
        with pytest.raises(Unavailable):
            await get(client, action)
        assert (await admin.get("/readyz")).status_code == 200
        dependency = (await admin.get("/status")).json()["dependencies"][name]
        assert dependency["state"] == "failing"
        assert redis.url in dependency["last_error"]
        metrics = (await admin.get("/metrics")).text
        assert f'gridwright_actioncache_redis_up{{server="{redis.url}"}} 0.0' in metrics
        assert "gridwright_actioncache_redis_dropped_writes_total 0.0" in metrics


async def test_lookups_are_misses_if_the_operator_prefers_that(run: Path, redis: RedisServer) -> None:
    async with serving_cas(FakeCas(), run), actioncache(run, redis, on_backend_failure="miss") as client:
        redis.kill()
        with pytest.raises(NotFound):
            await get(client, an_action())


async def test_while_redis_and_the_cas_are_killed_under_load_no_hit_is_wrong(run: Path, redis: RedisServer) -> None:
    """Wrong would be: the result of another action, or one whose output was lost before it was asked for."""
    cas = FakeCas()
    outputs = {an_action(): await cas.keep(f"output {number}".encode()) for number in range(100)}
    seen: Counter[str] = Counter()
    slowest = 0.0
    stop = asyncio.Event()

    async def use(client: ActionCacheClient) -> None:
        nonlocal slowest
        while not stop.is_set():
            action = random.choice(list(outputs))
            lost_before = set(cas.lost)
            begun = time.monotonic()
            try:
                if random.random() < 0.2:
                    await update(client, action, outputs[action])
                else:
                    result = await get(client, action)
                    assert result.output_files[0].digest == message(outputs[action])
                    assert outputs[action] not in lost_before & cas.lost
                    seen["hit"] += 1
            except NotFound:
                seen["miss"] += 1
            except (Unavailable, ResourceExhausted):
                seen["unavailable"] += 1
            slowest = max(slowest, time.monotonic() - begun)

    async def hits_again() -> None:
        before = seen["hit"]
        async with asyncio.timeout(20):
            while seen["hit"] < before + 50:  # noqa: ASYNC110  # those who count announce nothing
                await asyncio.sleep(0.01)

    async with AsyncExitStack() as cas_is_up, actioncache(run, redis) as client:
        await cas_is_up.enter_async_context(serving_cas(cas, run))
        users = [asyncio.create_task(use(client)) for _ in range(16)]
        for _ in range(3):
            await hits_again()
            redis.kill()
            await asyncio.sleep(0.2)
            redis.start()
            await hits_again()
            # For good: what is lost once may not come back, or a hit that began before would look wrong.
            cas.lost.add(random.choice(list(outputs.values())))
            await cas_is_up.aclose()
            await asyncio.sleep(0.2)
            await cas_is_up.enter_async_context(serving_cas(cas, run))
        await hits_again()
        stop.set()
        await asyncio.gather(*users)
    assert min(seen.values()) > 0
    # The CAS is waited for, for five seconds; Redis is not.
    assert slowest < 15
