"""Three schedulers over one database, of which one is killed every five seconds, under load."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.digest import Digest
from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.settings import Address
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.server import ServerOptions, serving
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.opening import migrate_database
from tests.postgres import PostgresServer, postgres_server
from tests.scheduler.grid import Client, response_of
from tests.scheduler.neighbours import FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import ScriptedWorker
from tests.scheduler.test_restart import Scheduler, answering

REPLICAS = 3
SECONDS = float(os.environ.get("GRIDWRIGHT_SOAK_SECONDS", "120"))
KILL_EVERY_SECONDS = 5.0
CLIENTS = 24
WORKERS = 6
SLOTS = 4
#: Every so many Execute calls ask for an action that others ask for, too.
SHARED_EVERY = 4
#: What clients and workers do after they found a scheduler gone, before they turn to the next.
PAUSE_SECONDS = 0.05
#: Longer than any action may take of which nothing is lost: a replica is taken for dead, and a worker for gone, sooner.
ANSWER_SECONDS = 60.0


class Replica:
    """One of the schedulers, and what it went through."""

    def __init__(self, scheduler: Scheduler, channel: GrpcChannel) -> None:
        self._scheduler = scheduler
        self.channel = channel
        #: Changes whenever it is killed, and again when it answers after that.
        self.epoch = 0
        self.up = False

    async def start(self) -> None:
        """Start it, and return when it answers."""
        await self._scheduler.start()
        await answering(self.channel)
        self.epoch += 1
        self.up = True

    async def kill(self) -> None:
        """End it without a word."""
        self.epoch += 1
        self.up = False
        await self._scheduler.kill()

    async def stop(self) -> int:
        """End it in good order."""
        return await self._scheduler.stop()


class Site:
    """The schedulers, what they share, and what was seen of them."""

    def __init__(self, replicas: list[Replica], cas: FakeCas, cache: FakeActionCache, server: PostgresServer) -> None:
        self.replicas = replicas
        self.cas = cas
        self.cache = cache
        self.server = server
        self.seen: Counter[str] = Counter()
        #: Operations that have ended, and how.
        self.ended: dict[str, bytes] = {}
        self.stopping = False

    async def call(self, attempt: Callable[[Replica], Awaitable[None]]) -> bool:
        """Try *attempt* at a replica by chance; return whether it came to an end, and was not cut by a kill."""
        replica = random.choice(self.replicas)
        epoch, up = replica.epoch, replica.up
        try:
            await attempt(replica)
        except Unavailable:
            assert not up or replica.epoch != epoch, "UNAVAILABLE of a scheduler that was well"
            self.seen["cut"] += 1
            await asyncio.sleep(PAUSE_SECONDS)
            return False
        return True


@asynccontextmanager
async def open_site(directory: Path, server: PostgresServer) -> AsyncIterator[Site]:
    """Run the schedulers while the block runs; their neighbours and the database stay up."""
    await migrate_database(DatabaseSettings(url=server.url()))
    cas, cache = FakeCas(), FakeActionCache()
    options = ServerOptions([Address("127.0.0.1:0")], LoopbackAuthenticator(), CollectorRegistry())
    async with serving([cas, cache], options) as [port]:
        neighbours = f"127.0.0.1:{port}"
        replicas = []
        for number in range(REPLICAS):
            own = directory / str(number)
            own.mkdir()
            settings: dict[str, object] = {
                "endpoints": {"cas": neighbours, "actioncache": neighbours},
                "scheduler": {
                    "listen": "unix:scheduler.sock",
                    "admin": "unix:admin.sock",
                    "database": {"url": server.url(), "pool_size": 3},
                    "bots": {"hold_seconds": 5},
                },
            }
            channel = GrpcChannel(f"unix:{number}/scheduler.sock")
            replicas.append(Replica(Scheduler(own, settings), channel))
        site = Site(replicas, cas, cache, server)
        try:
            await asyncio.gather(*(replica.start() for replica in replicas))
            yield site
        finally:
            site.stopping = True
            for replica in replicas:
                await replica.stop()
                await replica.channel.close()


async def execute(site: Site, digest: Digest) -> None:
    """Execute as Bazel does, at any replica, and wait at any other when the stream breaks."""
    name = ""
    done = False

    async def follow(replica: Replica) -> None:
        nonlocal name, done
        client = Client(replica.channel, site.cas)
        stream = client.wait(name) if name else client.execute(digest)
        try:
            while not (stream.seen and stream.seen[-1].done):
                message = await stream.next()
                name = message.name
            done = True
            response = response_of(stream.seen[-1])
            assert response.status.code == code_pb2.OK, response
            assert response.result.stdout_raw, "a result that no worker of this test made"
            before = site.ended.setdefault(name, response.result.stdout_raw)
            assert before == response.result.stdout_raw, "an operation that ended in two ways"
        except Unavailable:
            if not done:  # whatever becomes of a stream after its last message
                raise
        finally:
            await stream.close()

    async with asyncio.timeout(ANSWER_SECONDS):
        while not await site.call(follow) or not done:
            site.seen["waited" if name else "executed again"] += 1
    site.seen["operations"] += 1


async def keep_executing(site: Site, shared: asyncio.Queue[Digest]) -> None:
    """Execute one action after the other, some of which others execute at the same time."""
    number = 0
    while not site.stopping:
        number += 1
        if number % SHARED_EVERY == 0 and not shared.empty():
            digest = shared.get_nowait()
        else:
            digest = await Client(site.replicas[0].channel, site.cas).upload("true", uuid.uuid4().hex)
            if number % SHARED_EVERY == 1 and shared.qsize() < CLIENTS:
                shared.put_nowait(digest)
        await execute(site, digest)


async def work(site: Site, bot_id: str) -> None:
    """Be a worker that calls a replica by chance each time, and tells again what could not be told."""
    worker = ScriptedWorker(site.replicas[0].channel, bot_id, capacity=SLOTS)
    begun = False

    async def create(replica: Replica) -> None:
        nonlocal begun
        worker.use(replica.channel)
        await worker.create()
        begun = True

    async def update(replica: Replica) -> None:
        worker.use(replica.channel)
        for lease in worker.session.leases:
            if lease.state == pb.PENDING:
                site.seen["runs"] += 1
                worker.finish(lease.id, re.ActionResult(stdout_raw=uuid.uuid4().bytes))
        await worker.update()

    while not begun:
        await site.call(create)
    while True:
        await site.call(update)


async def kill_in_turn(site: Site) -> None:
    """Kill one replica after the other, and start it again."""
    kills = 0
    until = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(KILL_EVERY_SECONDS)
        replica = site.replicas[kills % REPLICAS]
        await replica.kill()
        await replica.start()
        kills += 1
    site.seen["kills"] = kills


@pytest.mark.soak
async def test_replicas_that_are_killed_in_turn_lose_nothing_and_end_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_only: None
) -> None:
    # Socket paths must be short.
    monkeypatch.chdir(tmp_path)
    with postgres_server(durable=True) as server:
        async with open_site(tmp_path, server) as site, asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work(site, f"worker-{number}")) for number in range(WORKERS)]
            shared: asyncio.Queue[Digest] = asyncio.Queue()
            executing = [tasks.create_task(keep_executing(site, shared)) for _ in range(CLIENTS)]
            await kill_in_turn(site)
            site.stopping = True
            await asyncio.gather(*executing)
            await every_replica_says_the_same(site)
            for worker in working:
                worker.cancel()
        left = "SELECT count(*) FROM actions WHERE state < 4"
        assert server.sql(left) == "0"
    print(f"\n{dict(site.seen)}; {len(site.ended)} operations ended, none was lost, none ended twice")
    assert site.seen["operations"] > site.seen["kills"] > 0


async def every_replica_says_the_same(site: Site) -> None:
    """Ask each replica for the operations that have ended, of which the tables know."""
    known = site.server.sql("SELECT name FROM operations").split()
    assert known
    for replica in site.replicas:
        client = Client(replica.channel, site.cas)
        for name in random.sample(known, min(len(known), 200)):
            if name in site.ended:
                assert response_of(await client.get(name)).result.stdout_raw == site.ended[name]
