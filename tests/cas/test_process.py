"""The CAS as a process: it starts, serves, survives kill -9, and stops when it is told to."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import read_blob, write_blob
from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import CapabilitiesClient
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel

GRID = """
instances: [{{name: main}}, {{name: other}}]
cas:
  listen: unix:run/cas.sock
  admin: unix:run/admin.sock
  store: {store}
"""
FILES = "{verify: {backend: {filesystem: {content_path: cas, eviction_policy: {max_bytes: 1Gb}}}}}"
SEGMENTS = FILES.replace("filesystem", "segments")
MEMORY = "{memory: {}}"
BLOB = b"some bytes" * 500_000
DIGEST = DigestFunction.SHA256.digest(BLOB)
SMALL = DigestFunction.SHA256.digest(b"small")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a grid, which is also where its processes run: socket paths stay short."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return tmp_path


@asynccontextmanager
async def cas_process(data: Path, store: str = FILES) -> AsyncIterator[Process]:
    """Run the service in *data* until it is ready; it is killed in the end if it still runs."""
    (data / "grid.yaml").write_text(GRID.format(store=store))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gridwright_cas", "--config", "grid.yaml", cwd=data, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(30):
            while process.returncode is None and await admin_status("/readyz") != 200:  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def admin_status(path: str) -> int:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds="run/admin.sock")) as client:
        try:
            return (await client.get(f"http://cas{path}")).status_code
        except httpx.TransportError:
            return 0


@asynccontextmanager
async def connected(instance: str = "main") -> AsyncIterator[RemoteStore]:
    async with GrpcChannel("unix:run/cas.sock") as channel:
        yield RemoteStore(RetryingChannel(channel), instance)


@pytest.mark.parametrize("store", [FILES, SEGMENTS])
async def test_blobs_outlive_the_process_that_was_killed(data: Path, store: str) -> None:
    async with cas_process(data, store) as process, connected() as cas:
        await cas.put(DIGEST, chunks_of(BLOB))
        await write_blob(cas, SMALL, b"small")
        process.kill()
        await process.wait()
    async with cas_process(data, store), connected() as cas:
        assert await cas.missing({DIGEST, SMALL}) == set()
        assert await read_all(cas, DIGEST) == BLOB
        assert await read_blob(cas, SMALL) == b"small"


async def test_instances_keep_their_blobs_apart(data: Path) -> None:
    async with cas_process(data), connected("main") as main, connected("other") as other:
        await write_blob(main, SMALL, b"small")
        assert await other.missing({SMALL}) == {SMALL}


async def test_the_service_says_what_it_can_do_and_how_it_is(data: Path) -> None:
    async with cas_process(data, MEMORY), GrpcChannel("unix:run/cas.sock") as channel:
        capabilities = await CapabilitiesClient(RetryingChannel(channel)).get_capabilities(
            pb.GetCapabilitiesRequest(instance_name="main"), timeout=10
        )
        assert capabilities.cache_capabilities.max_batch_total_size_bytes > 2**20
        assert [await admin_status(path) for path in ("/healthz", "/status", "/metrics")] == [200, 200, 200]


async def test_it_ends_well_when_it_is_told_to(data: Path) -> None:
    async with cas_process(data) as process, connected() as cas:
        await write_blob(cas, SMALL, b"small")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def test_a_second_process_on_the_same_directory_says_so_and_ends(data: Path) -> None:
    async with cas_process(data):
        (data / "second.yaml").write_text(
            GRID.format(store=FILES).replace("run/cas.sock", "run/two.sock").replace("run/admin", "run/two-admin")
        )
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gridwright_cas", "--config", "second.yaml", cwd=data, stderr=PIPE
        )
        async with asyncio.timeout(30):
            _, errors = await second.communicate()
        assert second.returncode == 78
        assert "another process keeps its blobs in cas/main" in errors.decode()


async def test_two_processes_share_a_directory_of_segments(data: Path) -> None:
    async with cas_process(data, SEGMENTS), connected() as one:
        (data / "second.yaml").write_text(
            GRID.format(store=SEGMENTS).replace("run/cas.sock", "run/two.sock").replace("run/admin", "run/two-admin")
        )
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gridwright_cas", "--config", "second.yaml", cwd=data, stdout=PIPE, stderr=PIPE
        )
        try:
            async with GrpcChannel("unix:run/two.sock") as channel:
                two = RemoteStore(RetryingChannel(channel), "main")
                await write_blob(two, SMALL, b"small")
                await one.put(DIGEST, chunks_of(BLOB))
                assert await read_blob(one, SMALL) == b"small"
                assert await read_all(two, DIGEST) == BLOB
        finally:
            second.terminate()
            async with asyncio.timeout(30):
                await second.communicate()
        assert second.returncode == 0


async def test_settings_that_make_no_sense_end_the_start(data: Path) -> None:
    async with cas_process(data, "{verify: {backend: {disk: {}}}}") as process:
        assert process.stderr is not None
        assert "cas.store.verify.backend.disk: unknown key" in (await process.stderr.read()).decode()
        assert await process.wait() == 78
