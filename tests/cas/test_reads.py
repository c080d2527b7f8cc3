"""How much of each read is sent at once, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest
from prometheus_client import CollectorRegistry

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.settings import Address
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.server import ServerOptions, serving
from gridwright_cas.servicers import reads as reads_module
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.reads import Reads
from tests.cas.conftest import INSTANCES, RolesInHeader

CHUNK = bytes(range(256)) * (CHUNK_BYTES // 256)
LARGE_BYTES = 10 * CHUNK_BYTES


async def one_chunk() -> AsyncIterator[bytes]:
    yield CHUNK


def begun(reads: Reads, size_bytes: int = LARGE_BYTES) -> AsyncGenerator[pb.ReadResponse, None]:
    return reads.messages(one_chunk(), size_bytes)


def data_of(message: pb.ReadResponse) -> bytes:
    return pb.ReadResponse.FromString(message.SerializeToString()).data


async def test_a_single_reader_gets_whole_chunks() -> None:
    messages = [data_of(message) async for message in begun(Reads())]
    assert messages == [CHUNK]


async def test_of_many_readers_each_gets_small_messages_that_make_the_same_bytes() -> None:
    reads = Reads()
    async with AsyncExitStack() as stack:
        for _ in range(31):
            await anext(await stack.enter_async_context(aclosing(begun(reads))))
        messages = [data_of(message) async for message in begun(reads)]
    assert {len(message) for message in messages} == {CHUNK_BYTES // 4}
    assert b"".join(messages) == CHUNK


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads_module, "_PATIENCE_SECONDS", 0.0)


async def test_reads_that_have_no_room_wait_for_those_that_are_soon_over() -> None:
    reads = Reads(memory_bytes=CHUNK_BYTES)

    async def read() -> list[bytes]:
        return [data_of(message) async for message in begun(reads)]

    async with aclosing(begun(reads)) as first:
        await anext(first)
        waiting = [asyncio.create_task(read()) for _ in range(4)]
        done, _ = await asyncio.wait(waiting, timeout=0)
        assert not done
        waiting.pop(1).cancel()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == [[CHUNK]] * 3


@pytest.mark.usefixtures("no_patience")
async def test_so_many_stalled_readers_that_memory_is_short_keep_out_large_reads_until_they_go() -> None:
    reads = Reads(memory_bytes=3 * CHUNK_BYTES + 1)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await anext(await stack.enter_async_context(aclosing(begun(reads))))
        with pytest.raises(ResourceExhausted) as refused:
            await anext(begun(reads))
        assert refused.value.retry_after_seconds
        # What a connection takes unasked is over at once.
        assert [data_of(message) async for message in begun(reads, size_bytes=1_000)]
    assert [data_of(message) async for message in begun(reads)] == [CHUNK]


async def test_one_large_read_is_always_under_way_however_little_memory_there_is() -> None:
    reads = Reads(memory_bytes=1)
    assert [data_of(message) async for message in begun(reads)] == [CHUNK]


@pytest.mark.usefixtures("no_patience")
async def test_a_read_that_fails_or_is_cancelled_makes_room_for_the_next() -> None:
    reads = Reads(memory_bytes=1)
    reading = asyncio.Event()

    async def failing() -> AsyncIterator[bytes]:
        yield CHUNK
        raise Unavailable("the disk does not answer")

    async def stalled() -> AsyncIterator[bytes]:
        yield CHUNK
        reading.set()
        await asyncio.get_running_loop().create_future()

    async def read_all(chunks: AsyncIterator[bytes]) -> None:
        async with aclosing(reads.messages(chunks, LARGE_BYTES)) as messages:
            async for _ in messages:
                pass

    with pytest.raises(Unavailable):
        await read_all(failing())
    task = asyncio.create_task(read_all(stalled()))
    await asyncio.wait_for(reading.wait(), 10)
    with pytest.raises(ResourceExhausted):
        await anext(begun(reads))
    task.cancel()
    await asyncio.wait([task])
    assert [data_of(message) async for message in begun(reads)] == [CHUNK]


class Told(ForwardingStore):
    """Tells when somebody has stopped reading."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.left = asyncio.Event()

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._inner.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        finally:
            self.left.set()


@pytest.mark.usefixtures("no_patience")
async def test_a_reader_that_hangs_up_while_it_stands_still_makes_room_for_the_next() -> None:
    blob = CHUNK * 20
    digest, store = DigestFunction.SHA256.digest(blob), Told(MemoryStore(max_bytes=2**30))
    await store.put(digest, chunks_of(blob))
    servicer = ByteStreamServicer(
        INSTANCES, {instance.storage: store for instance in INSTANCES}, reads=Reads(memory_bytes=1)
    )
    options = ServerOptions(
        listen=[Address("127.0.0.1:0")],
        authenticator=RolesInHeader(),
        registry=CollectorRegistry(),
        drain_seconds=0.5,
    )
    async with serving([servicer], options) as (port,), GrpcChannel(f"127.0.0.1:{port}") as channel:
        client, request = ByteStreamClient(channel), pb.ReadRequest(resource_name=f"main/blobs/{digest}")
        async with aclosing(client.read(request, timeout=30)) as standing:  # type: ignore[type-var]
            await anext(standing)
            with pytest.raises(ResourceExhausted):
                await anext(client.read(request, timeout=30))
        await asyncio.wait_for(store.left.wait(), 10)
        assert b"".join([message.data async for message in client.read(request, timeout=30)]) == blob
