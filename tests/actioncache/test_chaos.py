"""Redis and the CAS are killed under load: whatever is a hit then can be read."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gridwright.blobs.remote import RemoteStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, NotFound, ResourceExhausted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.wire.grpc_channel import GrpcChannel
from tests.actioncache.documents import directory, message, tree
from tests.actioncache.redis_servers import RedisServer, redis_server

SHA256 = DigestFunction.SHA256
#: A CAS in memory: who kills it loses all blobs, and what is uploaded beside evicts what nobody uses.
SETTINGS = """
endpoints: {{cas: "unix:cas.sock"}}
cas:
  listen: unix:cas.sock
  admin: unix:cas-admin.sock
  store: {{verify: {{backend: {{memory: {{eviction_policy: {{max_bytes: 8Mb}}}}}}}}}}
actioncache:
  listen: unix:actioncache.sock
  admin: unix:actioncache-admin.sock
  store: {{completeness_checking: {{backend: {{redis: {{url: "{redis}"}}}}}}}}
"""
ACTIONS = 60
USERS = 12
#: While the CAS is gone it is waited for, for five seconds; clients of ours give up after twenty.
LONGEST_SECONDS = 15.0


class Service:
    """A service in a process of its own."""

    def __init__(self, module: str, run: Path) -> None:
        self._command = (sys.executable, "-m", module, "--config", "grid.yaml")
        self._run = run
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self._run / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self._command, cwd=self._run, stdout=log, stderr=log)

    async def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@dataclass
class Build:
    """Clients that ask for results, read what these name, and build again what is no hit."""

    cache: ActionCacheClient
    cas: RemoteStore
    results: Mapping[Digest, tuple[pb.ActionResult, Mapping[Digest, bytes]]]
    #: How often the CAS has been killed.
    losses: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def go_on(self) -> None:
        """Build for ever."""
        while True:
            try:
                await self._one(random.choice(list(self.results)))
            except (Unavailable, ResourceExhausted):
                self.seen["unavailable"] += 1
                await asyncio.sleep(0.01)

    async def fill(self) -> None:
        """Upload what nobody asks for, for ever."""
        while True:
            blobs = [os.urandom(50_000) for _ in range(4)]
            await self.cas.put_many({SHA256.digest(blob): blob for blob in blobs})
            await asyncio.sleep(0.02)

    async def hits(self, count: int) -> None:
        """Wait for so many more."""
        until = self.seen["hit"] + count
        async with asyncio.timeout(30):
            while self.seen["hit"] < until:
                self.news.clear()
                await self.news.wait()

    async def _one(self, action: Digest) -> None:
        result, blobs = self.results[action]
        losses, begun = self.losses, time.monotonic()
        try:
            request = pb.GetActionResultRequest(action_digest=message(action))
            found = await self.cache.get_action_result(request, timeout=20)
        except NotFound:
            self.seen["miss"] += 1
            await self.cas.put_many(blobs)
            update = pb.UpdateActionResultRequest(action_digest=message(action), action_result=result)
            await self.cache.update_action_result(update, timeout=20)
            return
        finally:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
        assert found == result, "the result of another action"
        read = await self.cas.get_many(blobs)
        # What went with the CAS between question and answer, nobody can promise.
        if losses == self.losses:
            wrong = [digest for digest, data in read.items() if isinstance(data, BlobNotFound)]
            assert not wrong, f"a hit that names {wrong[0]}, which is not there"
        if all(read[digest] == data for digest, data in blobs.items()):
            self.seen["hit"] += 1
            self.news.set()


def a_result(number: int) -> tuple[pb.ActionResult, Mapping[Digest, bytes]]:
    """Return a result of files, streams and a directory, and the blobs of them."""
    contents = [b"%d/%d " % (number, output) * 100 for output in range(5)]
    file, inside, deep, stdout, root_file = (SHA256.digest(data) for data in contents)
    below = directory({"deep": deep})
    folder = tree(directory({"inside": inside}, {"below": below}), below)
    root = directory({"file": root_file}).SerializeToString()
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path="file", digest=message(file))],
        output_directories=[
            pb.OutputDirectory(path="tree", tree_digest=message(SHA256.digest(folder))),
            pb.OutputDirectory(path="root", root_directory_digest=message(SHA256.digest(root))),
        ],
        stdout_digest=message(stdout),
        execution_metadata=pb.ExecutedActionMetadata(worker="chaos"),
    )
    return result, {SHA256.digest(data): data for data in (*contents, folder, root)}


@asynccontextmanager
async def building(run: Path) -> AsyncIterator[Build]:
    async with (
        GrpcChannel(f"unix:{run}/actioncache.sock") as cache,
        GrpcChannel(f"unix:{run}/cas.sock") as cas,
        # The first wrong hit ends the test.
        asyncio.TaskGroup() as group,
    ):
        results = {SHA256.digest(b"action %d" % number): a_result(number) for number in range(ACTIONS)}
        build = Build(ActionCacheClient(cache), RemoteStore(cas, "main", timeout_seconds=20), results)
        tasks = [group.create_task(build.go_on()) for _ in range(USERS)]
        tasks.append(group.create_task(_again(build.fill)))
        yield build
        for task in tasks:
            task.cancel()


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Unavailable:
            await asyncio.sleep(0.05)


async def test_while_redis_and_the_cas_are_killed_every_hit_can_be_read() -> None:
    async with AsyncExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw-")))
        redis: RedisServer = stack.enter_context(redis_server(run / "redis"))
        (run / "grid.yaml").write_text(SETTINGS.format(redis=redis.url))
        cas, cache = Service("gridwright_cas", run), Service("gridwright_actioncache", run)
        for service in (cas, cache):
            stack.push_async_callback(service.kill)
            await service.start()
        build = await stack.enter_async_context(building(run))

        async def kill_cas() -> None:
            build.losses += 1
            await cas.kill()

        await build.hits(100)
        redis.kill()
        redis.start()
        await build.hits(100)
        await kill_cas()
        await cas.start()
        await build.hits(100)
        await kill_cas()
        redis.kill()
        await asyncio.sleep(0.3)
        redis.start()
        await cas.start()
        await build.hits(100)
        print(build.seen, build.slowest_seconds)
    assert min(build.seen[kind] for kind in ("hit", "miss", "unavailable")) > 0
    assert build.slowest_seconds < LONGEST_SECONDS
