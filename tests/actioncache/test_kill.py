"""What was acknowledged is there, also after the service was killed in the middle of writes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridwright.digest import Digest
from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import message
from tests.actioncache.service import serving_cas

SETTINGS = """
endpoints: {cas: "unix:cas.sock"}
actioncache:
  listen: unix:actioncache.sock
  admin: unix:admin.sock
  store: {lmdb: {path: results, max_bytes: 100Mb}}
"""


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw-") as path:
        (Path(path) / "grid.yaml").write_text(SETTINGS)
        yield Path(path)


@asynccontextmanager
async def service(run: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, ActionCacheClient]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gridwright_actioncache",
        "--config",
        "grid.yaml",
        cwd=run,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with GrpcChannel(f"unix:{run}/actioncache.sock") as channel:
            client = ActionCacheClient(RetryingChannel(channel))
            await write(client, an_action(), 0)
            yield process, ActionCacheClient(channel)
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) in (0, -signal.SIGKILL)


async def write(client: ActionCacheClient, action: Digest, exit_code: int) -> None:
    result = pb.ActionResult(exit_code=exit_code, stdout_raw=os.urandom(1000))
    request = pb.UpdateActionResultRequest(action_digest=message(action), action_result=result)
    await client.update_action_result(request, timeout=30)


async def test_acknowledged_results_survive_sigkill(run: Path) -> None:
    acknowledged: dict[Digest, int] = {}
    enough = asyncio.Event()

    async def write_on(client: ActionCacheClient, writer: int) -> None:
        while True:
            action = an_action()
            try:
                await write(client, action, writer)
            except GridwrightError:
                return
            acknowledged[action] = writer
            if len(acknowledged) >= 300:
                enough.set()

    async with serving_cas(FakeCas(), run), service(run) as (process, client):
        writers = [asyncio.create_task(write_on(client, number)) for number in range(1, 33)]
        await asyncio.wait_for(enough.wait(), 60)
        process.kill()
        await process.wait()
        await asyncio.wait_for(asyncio.gather(*writers), 30)

    async with serving_cas(FakeCas(), run), service(run) as (_, client):
        for action, writer in acknowledged.items():
            found = await client.get_action_result(pb.GetActionResultRequest(action_digest=message(action)), timeout=30)
            assert found.exit_code == writer
