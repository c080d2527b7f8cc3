"""While a reader waits for the next chunk of a blob, nobody holds the one before: many readers have one each."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.compression import streams
from gridwright_cas.servicers.compression.codec import Compressor
from gridwright_cas.servicers.compression.compressors import BY_NAME
from gridwright_cas.servicers.compression.streams import compressed
from gridwright_cas.stores.codecs import ZstdCodec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.existence_cached import ExistenceCachedStore
from gridwright_cas.stores.fast_slow import FastSlowStore
from gridwright_cas.stores.metered import MeteredStore
from gridwright_cas.stores.segments import blob_reader
from gridwright_cas.stores.segments import store as segment_store
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.store import SegmentStore
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.conftest import INSTANCES
from tests.cas.test_metered_store import StoreRecord
from tests.cas.wire import CasWire

BLOB = bytes(range(256)) * (4 * CHUNK_BYTES // 256)
DIGEST = DigestFunction.SHA256.digest(BLOB)
#: Of which no codec makes less.
RANDOM = random.Random(1).randbytes(len(BLOB))


class Chunk(bytes):
    """Bytes that are counted while they are in memory."""

    alive: ClassVar[int] = 0

    def __init__(self, _: bytes) -> None:
        Chunk.alive += 1

    def __del__(self) -> None:
        Chunk.alive -= 1


class LetGo(ForwardingStore):
    """Notes how many of the chunks that it gave are still held when it is asked for the next one."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.held: list[int] = []

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        async for chunk in self._inner.get(digest, offset=offset, limit=limit):
            self.held.append(Chunk.alive)
            yield Chunk(chunk)


async def holding(blob: bytes) -> LetGo:
    memory = MemoryStore(max_bytes=2**30)
    await memory.put(DigestFunction.SHA256.digest(blob), chunks_of(blob))
    return LetGo(memory)


def slow(inner: BlobStore) -> BlobStore:
    """Return a store that reads from *inner* what is not in its fast one, and does not keep a part of a blob."""
    return FastSlowStore(MemoryStore(max_bytes=CHUNK_BYTES), inner, FakeClock())


@pytest.mark.parametrize(
    "around",
    [
        VerifiedStore,
        lambda inner: MeteredStore(inner, StoreRecord()),
        lambda inner: ExistenceCachedStore(inner, FakeClock(), EvictionPolicy(max_count=10)),
        lambda inner: FastSlowStore(inner, MemoryStore(max_bytes=CHUNK_BYTES), FakeClock()),
        slow,
    ],
)
async def test_a_decorator_holds_no_chunk_that_it_has_passed_on(around: Callable[[BlobStore], BlobStore]) -> None:
    leaf = await holding(BLOB)
    async for chunk in around(leaf).get(DIGEST, offset=0, limit=len(BLOB)):
        assert chunk
        del chunk
    assert leaf.held == [0, 0, 0, 0]


async def test_a_read_over_the_wire_holds_no_chunk_that_it_has_sent(cas: CasWire, stores: dict[str, BlobStore]) -> None:
    stores["main"] = leaf = await holding(BLOB)
    assert b"".join(await cas.read(f"main/blobs/{DIGEST}")) == BLOB
    assert leaf.held == [0, 0, 0, 0]


async def test_a_read_within_the_process_holds_no_chunk_either() -> None:
    leaf = await holding(BLOB)
    servicer = ByteStreamServicer(INSTANCES, {instance.storage: leaf for instance in INSTANCES})
    async for chunk in RemoteStore(InProcessChannel(servicer), "main").get(DIGEST):
        assert chunk
    assert leaf.held == [0, 0, 0, 0]


@pytest.mark.parametrize("compressor", BY_NAME.values(), ids=BY_NAME.keys())
async def test_a_read_that_is_compressed_holds_no_chunk_that_was_encoded(
    compressor: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread holds what it has encoded until it has gone on, which the next chunk need not wait for.
    monkeypatch.setattr(streams, "_INLINE_BYTES", len(BLOB))
    leaf = await holding(BLOB)
    async for piece in compressed(leaf, DIGEST, 0, compressor):
        assert piece
    assert leaf.held == [0, 0, 0, 0]


async def test_a_compressed_store_holds_no_chunk_that_it_has_decompressed() -> None:
    digest, memory = DigestFunction.SHA256.digest(RANDOM), MemoryStore(max_bytes=2**30)
    await CompressedStore(memory, ZstdCodec()).put(digest, chunks_of(RANDOM))
    leaf = LetGo(memory)
    async for block in CompressedStore(leaf, ZstdCodec()).get(digest):
        assert block
    assert len(leaf.held) >= 5  # the table as well
    assert not any(leaf.held)


class CountedBlocks(SystemDisk):
    """Notes how many blocks are held when another one is read."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[int] = []

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if size < CHUNK_BYTES:
            return super().read(fd, size, offset)
        self.held.append(Chunk.alive)
        return Chunk(super().read(fd, size, offset))


async def test_of_many_reads_from_segments_each_has_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_reader, "_ALL_READ_AHEAD", 0)  # as where there are more reads than that
    # A thread holds what it has read until it has gone on, which the next one need not wait for.
    monkeypatch.setattr(segment_store, "_THREADS", 1)
    disk = CountedBlocks()
    settings = SegmentSettings(EvictionPolicy(max_bytes=2**28), durable=False, scrub_bytes_per_second=0)
    async with SegmentStore.opened(tmp_path, FakeClock(), settings, disk=disk) as store:
        await store.put(DIGEST, chunks_of(BLOB))
        disk.held.clear()
        async for chunk in store.get(DIGEST):
            assert chunk
            del chunk
    assert disk.held == [0, 0, 0, 0]
