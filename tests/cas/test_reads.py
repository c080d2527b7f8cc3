"""How much of each read is sent at once, and how many there may be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.errors import ResourceExhausted
from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright_cas.servicers.reads import Reads

CHUNK = bytes(range(256)) * (CHUNK_BYTES // 256)
LARGE_BYTES = 10 * CHUNK_BYTES
#: More than may be under way of large blobs.
MANY = 1_000


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


async def test_so_many_stalled_readers_that_memory_is_short_keep_out_large_reads_until_they_go() -> None:
    reads = Reads()
    async with AsyncExitStack() as stack:

        async def begin_many() -> None:
            for _ in range(MANY):
                await anext(await stack.enter_async_context(aclosing(begun(reads))))

        with pytest.raises(ResourceExhausted) as refused:
            await begin_many()
        assert refused.value.retry_after_seconds
        # What a connection takes unasked is over at once.
        assert [data_of(message) async for message in begun(reads, size_bytes=1_000)]
    assert [data_of(message) async for message in begun(reads)] == [CHUNK]
