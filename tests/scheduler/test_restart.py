"""A scheduler that is killed loses nothing that anybody was told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.digest import Digest
from gridwright.errors import ConfigurationError, NotFound, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.settings import Address
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.server import ServerOptions, serving
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.opening import open_database
from tests.scheduler.databases import settings_in
from tests.scheduler.grid import Client, response_of, stage_of
from tests.scheduler.neighbours import FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import ScriptedWorker

#: Here a scheduler is a process, and alone.
pytestmark = pytest.mark.usefixtures("one_replica")
STAGE = re.ExecutionStage


class Scheduler:
    """A scheduler as a process, which can be killed and started again."""

    def __init__(self, directory: Path, settings: dict[str, object]) -> None:
        self._directory = directory
        (directory / "grid.yaml").write_text(yaml.safe_dump(settings))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # Relative socket paths, as `gridwright up` has them: absolute ones would be too long.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gridwright_scheduler", "--config", "grid.yaml", cwd=self._directory
        )

    async def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), 20)


class Site:
    """A killable scheduler with neighbours that stay up."""

    def __init__(self, scheduler: Scheduler, channel: GrpcChannel, cas: FakeCas, cache: FakeActionCache) -> None:
        self.scheduler = scheduler
        self.channel = channel
        self.cache = cache
        self.client = Client(channel, cas)


@asynccontextmanager
async def open_site(directory: Path, monkeypatch: pytest.MonkeyPatch, **section: object) -> AsyncIterator[Site]:
    monkeypatch.chdir(directory)
    cas, cache = FakeCas(), FakeActionCache()
    options = ServerOptions([Address("127.0.0.1:0")], LoopbackAuthenticator(), CollectorRegistry())
    async with serving([cas, cache], options) as [port], GrpcChannel("unix:scheduler.sock") as channel:
        neighbours = f"127.0.0.1:{port}"
        settings = {
            "endpoints": {"cas": neighbours, "actioncache": neighbours},
            "scheduler": {
                "listen": "unix:scheduler.sock",
                "admin": "unix:admin.sock",
                "database": settings_in(directory),
                **section,
            },
        }
        scheduler = Scheduler(directory, settings)
        await scheduler.start()
        try:
            await answering(channel)
            yield Site(scheduler, channel, cas, cache)
        finally:
            await scheduler.stop()


async def test_operations_queue_and_leases_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WEX-06: the running action goes on, the queued one waits, the worker comes back by itself."""
    async with open_site(tmp_path, monkeypatch) as site:
        running = site.client.execute(await site.client.upload("running"))
        await running.next()
        worker = ScriptedWorker(site.channel)
        await worker.create()
        [lease] = await worker.take()
        queued = site.client.execute(await site.client.upload("queued"))
        await queued.next()

        await site.scheduler.kill()
        for stream in (running, queued):
            with pytest.raises(Unavailable):
                await stream.until(STAGE.COMPLETED)
        await site.scheduler.start()
        await answering(site.channel)

        waits = [site.client.wait(stream.name) for stream in (running, queued)]
        assert stage_of(await waits[0].next()) == STAGE.EXECUTING
        assert stage_of(await waits[1].next()) == STAGE.QUEUED
        worker.finish(lease.id, re.ActionResult(stdout_raw=b"survived"))
        await worker.update()
        response = await waits[0].response()
        assert response.result.stdout_raw == b"survived"
        assert not response.message  # one attempt was enough
        await worker.run(re.ActionResult(stdout_raw=b"waited"))
        assert (await waits[1].response()).result.stdout_raw == b"waited"
        assert len(site.cache.results) == 2


async def test_the_work_of_a_worker_that_died_with_the_scheduler_is_done_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots = {"silence_seconds": 1.0, "heartbeat_seconds": 0.3, "reattach_seconds": 0.5}
    async with open_site(tmp_path, monkeypatch, bots=bots) as site:
        stream = site.client.execute(await site.client.upload("true"))
        await stream.next()
        dead = ScriptedWorker(site.channel, "dead")
        await dead.create()
        await dead.take()
        await site.scheduler.kill()
        await site.scheduler.start()
        await answering(site.channel)
        worker = ScriptedWorker(site.channel, "alive")
        await worker.create()
        await worker.run(re.ActionResult(stdout_raw=b"again"))
        response = await site.client.wait(stream.seen[0].name).response()
        assert response.result.stdout_raw == b"again"
        assert "worker dead" in response.message
        await stream.close()


async def test_a_result_that_was_not_yet_announced_is_announced_after_the_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was told that its result is taken, so it may have forgotten it."""
    async with open_site(tmp_path, monkeypatch, cache_write_seconds=60.0) as site:
        stream = site.client.execute(await site.client.upload("true"), skip_cache_lookup=True)
        await stream.next()
        worker = ScriptedWorker(site.channel)
        await worker.create()
        [lease] = await worker.take()
        site.cache.down = True  # the scheduler tries and tries, and the client waits
        worker.finish(lease.id, re.ActionResult(stdout_raw=b"kept"))
        await worker.update()
        await site.scheduler.kill()
        site.cache.down = False
        await site.scheduler.start()
        await answering(site.channel)
        assert (await site.client.wait(stream.seen[0].name).response()).result.stdout_raw == b"kept"
        assert len(site.cache.results) == 1
        await stream.close()


async def test_it_may_be_killed_at_any_moment_of_many_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_site(tmp_path, monkeypatch) as site:
        worker = ScriptedWorker(site.channel, capacity=4)
        await worker.create()
        working = asyncio.create_task(work_through_anything(worker))
        digests = [await site.client.upload("true", str(number)) for number in range(120)]
        executing = [asyncio.create_task(persistent(site.client, digest)) for digest in digests]
        for pause in (0.15, 0.4):
            await asyncio.sleep(pause)
            await site.scheduler.kill()
            await site.scheduler.start()
        responses = await asyncio.gather(*executing)
        assert all(response.status.code == code_pb2.OK for response in responses)
        assert len(site.cache.results) == 120
        working.cancel()


async def test_sigterm_drains_and_exits_with_zero_also_with_calls_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_site(tmp_path, monkeypatch) as site:
        worker = ScriptedWorker(site.channel)
        await worker.create()
        poll = worker.poll()
        stream = site.client.execute(await site.client.upload("true", platform={"properties": [{"name": "x"}]}))
        await stream.next()
        assert await asyncio.wait_for(site.scheduler.stop(), 8) == 0
        await asyncio.wait([poll], timeout=5)
        assert poll.done()
        with pytest.raises(Unavailable):
            await stream.next()


async def test_a_database_that_cannot_be_opened_is_said_and_ends_the_start(tmp_path: Path, sqlite_only: None) -> None:
    for url in ("sqlite:////nowhere/at/all.db", "postgresql://x:y/z", "nonsense"):
        settings = {"scheduler": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "database_url": url}}
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(settings))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gridwright_scheduler", "--config", "grid.yaml"),
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 78
        assert b"scheduler.database" in said


@pytest.mark.parametrize("state", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_damaged_database_is_said_and_ends_the_start(tmp_path: Path, sqlite_only: None, state: bytes) -> None:
    (tmp_path / "scheduler.db").write_bytes(state)
    with pytest.raises(ConfigurationError, match="move it away"):
        async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/scheduler.db")):
            pytest.fail("nothing can be kept in it")


async def answering(channel: GrpcChannel) -> None:
    """Wait until the scheduler answers."""
    client = Client(channel, FakeCas())
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("main/nothing")
            except Unavailable:
                await asyncio.sleep(0.05)
            except NotFound:
                return


async def persistent(client: Client, digest: Digest) -> re.ExecuteResponse:
    """Execute as Bazel does: wait again when the stream breaks, execute again when the operation is unknown."""
    stream = client.execute(digest)
    while True:
        try:
            while not (stream.seen and stream.seen[-1].done):
                await stream.next()
            return response_of(stream.seen[-1])  # whatever becomes of the stream after its last message
        except Unavailable:
            await asyncio.sleep(0.05)
            stream = client.wait(stream.name) if stream.seen else client.execute(digest)


async def work_through_anything(worker: ScriptedWorker) -> None:
    """Work, and tell again what could not be told."""
    while True:
        for lease in worker.session.leases:
            if lease.state == pb.PENDING:
                worker.finish(lease.id, re.ActionResult())
        try:
            await worker.update()
        except Unavailable:
            await asyncio.sleep(0.05)
