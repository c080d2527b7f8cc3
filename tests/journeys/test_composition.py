"""A configuration of NativeLink serves: imported, and with a CAS and an action cache started from the settings."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidRequest, NotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.wire.digests import digest_message
from gridwright.wire.grpc_channel import GrpcChannel
from tests.cli.nativelink import PRODUCTION

SHA256 = DigestFunction.SHA256
SMALL, LARGE = b"small", bytes(range(256)) * 20_000
ACTION = SHA256.digest(b"an action")
#: Sockets are an affair of the test; everything else is as it was imported.
LISTENERS = {
    "GRIDWRIGHT_ENDPOINTS__CAS": "unix:cas.sock",
    "GRIDWRIGHT_CAS__LISTEN": "unix:cas.sock",
    "GRIDWRIGHT_CAS__ADMIN": "unix:cas-admin.sock",
    "GRIDWRIGHT_ACTIONCACHE__LISTEN": "unix:actioncache.sock",
    "GRIDWRIGHT_ACTIONCACHE__ADMIN": "unix:actioncache-admin.sock",
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the services run, which keeps the paths of their sockets short."""
    monkeypatch.chdir(tmp_path)
    for name, value in LISTENERS.items():
        monkeypatch.setenv(name, value)
    return tmp_path


async def run_to_its_end(*arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, stderr=DEVNULL)
    async with asyncio.timeout(60):
        return await process.wait()


@asynccontextmanager
async def running(service: str) -> AsyncIterator[None]:
    """Run a service of the imported settings until the block ends; it must be ready first, and end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"gridwright_{service}", "--config", "grid.yaml"
    )
    try:
        async with asyncio.timeout(60):
            while process.returncode is None and not await is_ready(service):  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(0.05)
        assert process.returncode is None
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def is_ready(service: str) -> bool:
    transport = httpx.AsyncHTTPTransport(uds=f"{service}-admin.sock")
    async with httpx.AsyncClient(transport=transport) as client:
        try:
            return (await client.get("http://service/readyz")).status_code == 200
        except httpx.TransportError:
            return False


@asynccontextmanager
async def grid() -> AsyncIterator[tuple[RemoteStore, ActionCacheClient]]:
    async with AsyncExitStack() as stack:
        for service in ("cas", "actioncache"):
            await stack.enter_async_context(running(service))
        cas = await stack.enter_async_context(GrpcChannel("unix:cas.sock"))
        actioncache = await stack.enter_async_context(GrpcChannel("unix:actioncache.sock"))
        # The name that clients of the imported configuration use is the empty one.
        yield RemoteStore(cas, ""), ActionCacheClient(actioncache)


async def cached(actioncache: ActionCacheClient) -> pb.ActionResult:
    request = pb.GetActionResultRequest(action_digest=digest_message(ACTION))
    return await actioncache.get_action_result(request, timeout=20)


def result_of(*outputs: Digest) -> pb.ActionResult:
    result = pb.ActionResult()
    for number, digest in enumerate(outputs):
        result.output_files.add(path=f"out/{number}", digest=digest_message(digest))
    return result


async def update(actioncache: ActionCacheClient, result: pb.ActionResult) -> None:
    request = pb.UpdateActionResultRequest(action_digest=digest_message(ACTION), action_result=result)
    await actioncache.update_action_result(request, timeout=20)


async def test_an_imported_configuration_serves_and_keeps_what_it_got(data: Path) -> None:
    (data / "nativelink.json5").write_text(PRODUCTION)
    assert await run_to_its_end("gridwright_cli", "config", "import", "nativelink.json5", "-o", "grid.yaml") == 0
    small, large, lost = (SHA256.digest(blob) for blob in (SMALL, LARGE, b"lost"))

    async with grid() as (cas, actioncache):
        await write_blob(cas, small, SMALL)
        await write_blob(cas, large, LARGE)
        with pytest.raises(InvalidRequest):
            await write_blob(cas, small._replace(size_bytes=4), b"smal")
        assert await cas.missing({small, large, lost}) == {lost}

        with pytest.raises(NotFound):
            await cached(actioncache)
        await update(actioncache, result_of(small, lost))
        with pytest.raises(NotFound):
            await cached(actioncache)
        await update(actioncache, result_of(small, large))
        assert len((await cached(actioncache)).output_files) == 2

    assert sum(file.stat().st_size for file in (data / "data/content_path-cas").rglob("*") if file.is_file()) < len(
        LARGE
    )

    async with grid() as (cas, actioncache):
        assert await read_blob(cas, large) == LARGE
        assert await read_blob(cas, small) == SMALL
        assert len((await cached(actioncache)).output_files) == 2
