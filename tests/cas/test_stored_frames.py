"""Blobs are read as the frames in which they are kept, through all decorators that leave them so."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import pytest
import zstandard

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.blobs.stored_frames import StoredFrames, ZstdFrames
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, OutOfRange
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.counting_store import CountingStore
from gridwright_cas.stores.codecs import Lz4Codec, ZstdCodec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.existence_cached import ExistenceCachedStore
from gridwright_cas.stores.metered import MeteredStore
from gridwright_cas.stores.read_only import ReadOnlyStore
from gridwright_cas.stores.size_partitioned import SizePartitionedStore
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.test_metered_store import StoreRecord

SHA256 = DigestFunction.SHA256
TEXT = b"".join(b"#include <some/header_%d.h>\n" % (number * number % 7919) for number in range(150_000))
SIZES = [1, 5000, 300_000, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77]
CODECS = [ZstdCodec(level=5), ZstdCodec(level=5, block_bytes=4096)]


async def kept(store: BlobStore, data: bytes) -> Digest:
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    return digest


async def pieces_of(frames: StoredFrames, digest: Digest, offset: int = 0) -> list[bytes | ZstdFrames]:
    return [piece async for piece in frames.get(digest, offset=offset)]


def unpacked(piece: bytes | ZstdFrames) -> bytes:
    if isinstance(piece, bytes):
        return piece
    data = zstandard.ZstdDecompressor().stream_reader(piece.data, read_across_frames=True).read()
    assert len(data) == piece.size_bytes
    return data


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_is_read_as_the_frames_that_are_kept(codec: ZstdCodec, size: int) -> None:
    inner = MemoryStore(max_bytes=2**27)
    store = CompressedStore(inner, codec)
    digest = await kept(store, TEXT[:size])
    stored = await read_blob(inner, digest)
    pieces = await pieces_of(store.stored_frames, digest)
    assert b"".join(map(unpacked, pieces)) == TEXT[:size]
    found = (await store.stored_frames.get_many([digest]))[digest]
    assert not isinstance(found, Exception)
    assert unpacked(found) == TEXT[:size]
    if size > 100:
        assert all(isinstance(piece, ZstdFrames) for piece in pieces)
        assert isinstance(found, ZstdFrames)
        assert stored.startswith(found.data)  # what follows is the table of the blocks


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("size", SIZES)
async def test_frames_begin_at_any_offset(codec: ZstdCodec, size: int) -> None:
    store = CompressedStore(MemoryStore(max_bytes=2**27), codec)
    digest = await kept(store, TEXT[:size])
    for offset in sorted({0, 1, 4095, 4096, 4097, size // 2, CHUNK_BYTES - 1, CHUNK_BYTES, size - 1, size}):
        if offset <= size:
            pieces = await pieces_of(store.stored_frames, digest, offset)
            assert b"".join(map(unpacked, pieces)) == TEXT[offset:size]
            assert sum(isinstance(piece, bytes) for piece in pieces) <= 1
    with pytest.raises(OutOfRange):
        await pieces_of(store.stored_frames, digest, size + 1)


async def test_what_does_not_shrink_is_read_as_it_is_in_bulk() -> None:
    store = CompressedStore(MemoryStore(max_bytes=2**27), ZstdCodec())
    data = os.urandom(1000)
    digest = await kept(store, data)
    assert await store.stored_frames.get_many([digest, SHA256.empty]) == {digest: data, SHA256.empty: b""}


@pytest.mark.parametrize("size", [5000, 300_000, 3 * CHUNK_BYTES + 77])
async def test_what_is_kept_in_another_way_is_read_as_it_is(size: int) -> None:
    inner = MemoryStore(max_bytes=2**27)
    digest = await kept(CompressedStore(inner, Lz4Codec()), TEXT[:size])
    store = CompressedStore(inner, ZstdCodec())
    assert await store.stored_frames.get_many([digest]) == {digest: TEXT[:size]}
    pieces = await pieces_of(store.stored_frames, digest, 5)
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert b"".join(map(unpacked, pieces)) == TEXT[5:size]
    plain = CompressedStore(inner, Lz4Codec()).stored_frames
    assert b"".join(map(unpacked, await pieces_of(plain, digest))) == TEXT[:size]


async def test_what_is_missing_is_missing_and_what_is_damaged_is_corrupt() -> None:
    inner = MemoryStore(max_bytes=2**27)
    frames = CompressedStore(inner, ZstdCodec()).stored_frames
    for size in (1000, 3 * CHUNK_BYTES):
        digest = SHA256.digest(TEXT[:size])
        with pytest.raises(BlobNotFound):
            await pieces_of(frames, digest)
        assert isinstance((await frames.get_many([digest]))[digest], BlobNotFound)
        await write_blob(inner, digest, os.urandom(500))
        with pytest.raises(BlobCorrupted):
            await pieces_of(frames, digest)
        assert isinstance((await frames.get_many([digest]))[digest], BlobCorrupted)


FORWARDING: Mapping[str, Callable[[BlobStore], BlobStore]] = {
    "verify": VerifiedStore,
    "read_only": ReadOnlyStore,
    "existence_cache": lambda inner: ExistenceCachedStore(inner, SystemClock(), EvictionPolicy()),
    "metered": lambda inner: MeteredStore(inner, StoreRecord()),
    "size_partitioning below": lambda inner: SizePartitionedStore(10**6, inner, MemoryStore()),
    "size_partitioning above": lambda inner: SizePartitionedStore(10, MemoryStore(), inner),
}


@pytest.mark.parametrize("decorate", FORWARDING.values(), ids=list(FORWARDING))
async def test_decorators_that_change_no_bytes_forward_the_frames(decorate: Callable[[BlobStore], BlobStore]) -> None:
    compressed = CompressedStore(MemoryStore(max_bytes=2**27), ZstdCodec())
    store = decorate(compressed)
    digest, small = await kept(compressed, TEXT[:5000]), SHA256.empty
    found = await store.stored_frames.get_many([digest, small])
    assert isinstance(found[digest], ZstdFrames)
    assert found[small] == b""
    assert [type(piece) for piece in await pieces_of(store.stored_frames, digest)] == [ZstdFrames]


async def test_bulk_is_one_call() -> None:
    counted = CountingStore(MemoryStore(max_bytes=2**27))
    store = CompressedStore(counted, ZstdCodec())
    digests = [await kept(store, TEXT[number : number + 1000]) for number in range(20)]
    counted.calls.clear()
    await VerifiedStore(store).stored_frames.get_many(digests)
    assert counted.calls == {"get_many": 1}


async def test_frames_are_metered_as_the_blobs_that_they_are() -> None:
    record = StoreRecord()
    compressed = CompressedStore(MemoryStore(max_bytes=2**27), ZstdCodec())
    digest, absent = await kept(compressed, TEXT[:5000]), SHA256.digest(b"absent")
    frames = MeteredStore(compressed, record).stored_frames
    await frames.get_many([digest, absent])
    await pieces_of(frames, digest)
    assert record.reads == [(1, 1, 5000), (1, 0, 5000)]
    assert record.answers == [("get_many", "ok"), ("get", "ok")]
