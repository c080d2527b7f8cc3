"""Several processes of the CAS on one port and one directory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, Unavailable
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel

SETTINGS = """
instances: [{{name: main}}]
cas:
  listen: 127.0.0.1:{port}
  admin: unix:admin.sock
  processes: 2
  drain_seconds: {drain_seconds}
  store: {{verify: {{backend: {{segments: {{content_path: cas, eviction_policy: {{max_bytes: 1Gb}}}}}}}}}}
"""
SHA256 = DigestFunction.SHA256
#: With so many, each process has some: the kernel throws a coin for each.
CONNECTIONS = 16
WAIT_SECONDS = 30.0


class Cas:
    """A CAS that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def page(self, path: str) -> tuple[int, str]:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds="admin.sock"), timeout=10) as client:
            try:
                response = await client.get(f"http://cas{path}")
            except httpx.TransportError:
                return 0, ""
            return response.status_code, response.text

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((await self.page("/status"))[1])
        return status

    async def address(self) -> str:
        return str((await self.status())["listen"])

    async def pids(self) -> list[int]:
        return [one["pid"] for one in (await self.status())["processes"].values()]

    async def ended(self) -> tuple[int | None, str]:
        """Return exit status and log, once it has ended."""
        async with asyncio.timeout(WAIT_SECONDS):
            _, log = await self.process.communicate()
        return self.process.returncode, log.decode()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a CAS, which is also where it runs: socket paths stay short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def start(port: int = 0, drain_seconds: float = 5) -> Cas:
    write_settings(port, drain_seconds)
    return Cas(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gridwright_cas", "--config", "grid.yaml"), stdout=PIPE, stderr=PIPE
        )
    )


def write_settings(port: int, drain_seconds: float) -> None:
    Path("grid.yaml").write_text(SETTINGS.format(port=port, drain_seconds=drain_seconds))


@asynccontextmanager
async def running(port: int = 0, drain_seconds: float = 5) -> AsyncIterator[Cas]:
    """Run a CAS until it is ready; it is killed in the end if it still runs."""
    cas = await start(port, drain_seconds)
    try:
        await until(lambda: is_ready(cas))
        yield cas
    finally:
        if cas.process.returncode is None:
            cas.process.kill()
        await cas.process.communicate()


async def is_ready(cas: Cas) -> bool:
    assert cas.process.returncode is None
    return (await cas.page("/readyz"))[0] == 200


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await happens():  # noqa: ASYNC110  # another process sets no event
            await asyncio.sleep(0.05)


@asynccontextmanager
async def channels(cas: Cas) -> AsyncIterator[list[GrpcChannel]]:
    """Connect often enough for each process to have some of the connections."""
    address = await cas.address()
    async with AsyncExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        yield [await stack.enter_async_context(GrpcChannel(address, options=own)) for _ in range(CONNECTIONS)]


@asynccontextmanager
async def connections(cas: Cas, *, retrying: bool = True) -> AsyncIterator[list[RemoteStore]]:
    async with channels(cas) as several:
        yield [RemoteStore(RetryingChannel(one) if retrying else one, "main") for one in several]


def blobs(count: int) -> dict[Digest, bytes]:
    contents = (os.urandom(500) for _ in range(count))
    return {SHA256.digest(blob): blob for blob in contents}


async def calls_by_process(cas: Cas) -> dict[str, float]:
    _, text = await cas.page("/metrics")
    calls: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if family.name == "gridwright_rpc_server_calls":
            for sample in family.samples:
                process = sample.labels["process"]
                calls[process] = calls.get(process, 0) + sample.value
    return calls


async def test_a_blob_put_through_one_is_found_through_the_others() -> None:
    large = os.urandom(3_000_000)
    async with running() as cas, connections(cas) as stores:
        contents = list(blobs(CONNECTIONS).items())
        await asyncio.gather(
            *(write_blob(store, digest, blob) for store, (digest, blob) in zip(stores, contents, strict=True))
        )
        await stores[0].put(SHA256.digest(large), chunks_of(large))
        for store in stores:
            assert await store.missing({*(digest for digest, _ in contents), SHA256.digest(large)}) == set()
            assert await read_blob(store, contents[0][0]) == contents[0][1]
            assert await read_all(store, SHA256.digest(large)) == large
        calls = await calls_by_process(cas)
        assert set(calls) == {"1", "2"}
        assert min(calls.values()) > 0
        # A blob is written once, then asked for and read on every connection.
        assert sum(calls.values()) == len(contents) + 1 + 3 * len(stores)


async def test_an_upload_that_broke_off_is_taken_up_through_another() -> None:
    blob = os.urandom(4_000_000)
    half = len(blob) // 2
    digest = SHA256.digest(blob)
    name = f"main/uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}"
    async with running() as cas, channels(cas) as several:
        first, *others = (ByteStreamClient(one) for one in several)

        async def half_of_it() -> AsyncIterator[bs.WriteRequest]:
            yield bs.WriteRequest(resource_name=name, data=blob[:half])
            await asyncio.Event().wait()

        async def has_half(client: ByteStreamClient) -> bool:
            status = await client.query_write_status(bs.QueryWriteStatusRequest(resource_name=name), timeout=10)
            return status.committed_size == half

        async def rest_of_it() -> AsyncIterator[bs.WriteRequest]:
            yield bs.WriteRequest(resource_name=name, write_offset=half, data=blob[half:], finish_write=True)

        uploading = asyncio.create_task(first.write(half_of_it(), timeout=WAIT_SECONDS))
        for client in others:
            await until(partial(has_half, client))
        uploading.cancel()
        with suppress(asyncio.CancelledError):
            await uploading
        for client in others:
            assert (await client.write(rest_of_it(), timeout=10)).committed_size == len(blob)


async def test_a_killed_process_breaks_its_calls_with_unavailable_and_comes_back() -> None:
    async with running() as cas, connections(cas, retrying=False) as stores:
        acknowledged: dict[Digest, bytes] = {}
        failures: dict[int, GridwrightError] = {}
        stop = asyncio.Event()

        async def load(number: int, store: RemoteStore) -> None:
            while not stop.is_set():
                [(digest, blob)] = blobs(1).items()
                try:
                    await write_blob(store, digest, blob)
                    acknowledged[digest] = blob
                    assert await read_all(store, digest) == blob
                except GridwrightError as error:
                    failures[number] = error
                    return

        loading = [asyncio.create_task(load(number, store)) for number, store in enumerate(stores)]
        await until(lambda: _at_least(acknowledged, 200))
        killed, other = await cas.pids()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: _at_least(failures, 1))

        async def is_replaced() -> bool:
            pids = await cas.pids()
            return pids[0] not in (killed, None) and pids[1] == other and await is_ready(cas)

        await until(is_replaced)
        stop.set()
        await asyncio.gather(*loading)
        assert {type(error) for error in failures.values()} == {Unavailable}
        assert len(failures) < len(stores)
        assert [one["restarts"] for one in (await cas.status())["processes"].values()] == [1, 0]
        assert 'gridwright_cas_process_restarts_total{process="1"} 1.0' in (await cas.page("/metrics"))[1]
        async with connections(cas) as again:
            for store in random.sample(again, 4):
                assert await store.missing(set(acknowledged)) == set()
                assert await store.get_many(list(acknowledged)[-100:]) == dict(list(acknowledged.items())[-100:])


async def _at_least(things: dict[Any, Any], count: int) -> bool:
    return len(things) >= count


async def test_sigterm_ends_all_of_them_in_order() -> None:
    async with running() as cas, connections(cas) as stores:
        [(digest, blob)] = blobs(1).items()
        await write_blob(stores[0], digest, blob)
        pids = await cas.pids()
        cas.process.send_signal(signal.SIGTERM)
        status, log = await cas.ended()
        assert status == 0
        assert not any(is_alive(pid) for pid in pids)
        lines = [json.loads(line) for line in log.splitlines()]
        stopped = [line.get("process") for line in lines if line["event"] == "stopped"]
        assert (sorted(stopped[:2]), stopped[2:]) == ([1, 2], [None])
        assert {line["level"] for line in lines} == {"info"}


def is_alive(pid: int) -> bool:
    """Whether a process runs; a killed one may wait for its new parent to look at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_none_outlives_a_killed_parent_and_its_port_is_free_for_the_next() -> None:
    async with running() as cas, connections(cas) as stores:
        [(digest, blob)] = blobs(1).items()
        await write_blob(stores[0], digest, blob)
        pids, address = await cas.pids(), await cas.address()
        cas.process.kill()
        await cas.ended()

        async def are_gone() -> bool:
            return not any(is_alive(pid) for pid in pids)

        async with asyncio.timeout(2):
            await until(are_gone)
        async with running(port=int(address.rpartition(":")[2])) as next_cas:
            assert await next_cas.address() == address
            assert await stores[0].missing({digest}) == set()


async def test_a_process_that_hangs_makes_the_cas_unready_and_is_killed_at_the_end() -> None:
    async with running(drain_seconds=0.2) as cas:
        _, hanging = await cas.pids()
        os.kill(hanging, signal.SIGSTOP)
        status, text = await cas.page("/readyz")
        assert (status, text) == (503, "not ready: process 2: does not answer\n")
        cas.process.send_signal(signal.SIGTERM)
        exit_status, log = await cas.ended()
        assert exit_status == 0
        assert "a process of the CAS did not end in time, and was killed" in log
        assert not is_alive(hanging)


async def test_metrics_of_all_processes_are_one_page_that_prometheus_can_read() -> None:
    async with running() as cas:
        _, text = await cas.page("/metrics")
        families = list(text_string_to_metric_families(text))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        by_name = {family.name: family for family in families}
        used = by_name["gridwright_cas_segments_used_bytes"].samples
        assert [sample.labels for sample in used] == [{"directory": "cas/main", "process": one} for one in "12"]
        cpu = by_name["process_cpu_seconds"].samples
        assert {sample.labels["process"] for sample in cpu} == {"parent", "1", "2"}


def has_children(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def test_a_start_can_be_cut_short() -> None:
    cas = await start()

    async def has_begun() -> bool:
        return has_children(cas.process.pid)

    await until(has_begun)
    cas.process.send_signal(signal.SIGTERM)
    status, log = await cas.ended()
    assert status == 0
    assert '"error"' not in log


async def test_settings_that_the_processes_cannot_use_end_the_start(data: Path) -> None:
    (data / "cas" / "main" / "sha256").mkdir(parents=True)
    status, log = await (await start()).ended()
    assert status == 78
    assert "cas/main holds the blobs of a `filesystem` store" in log
    assert re.search(r"^gridwright-cas: process [12] cannot use its settings; it has said above why$", log, re.M)
