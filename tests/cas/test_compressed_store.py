"""CompressedStore keeps the promises of a decorator, in formats that others read, and shows no damage to anybody."""

from __future__ import annotations

import os
import random
import struct

import lz4.frame
import pytest
import zstandard

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, DigestMismatch
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.counting_store import CountingStore
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.codecs import Codec, FrameCorrupted, Lz4Codec, ZstdCodec, decompress
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.seek_table import decode, encode, length_of_table

SHA256 = DigestFunction.SHA256
CODECS: list[Codec] = [Lz4Codec(), ZstdCodec(), ZstdCodec(block_bytes=4096), Lz4Codec(block_bytes=3 * 2**20)]
#: What a build has much of: text that repeats itself, but not from end to end.
TEXT = b"".join(b"#include <some/header_%d.h>\n" % (number * number % 7919) for number in range(150_000))


def leaf() -> MemoryStore:
    return MemoryStore(max_bytes=2**27)


async def put(store: BlobStore, data: bytes) -> Digest:
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    return digest


async def replaced(inner: MemoryStore, digest: Digest, stored: bytes, codec: Codec) -> CompressedStore:
    """Return a store in which other bytes are stored under a digest."""
    other = MemoryStore(max_bytes=2**27)
    await write_blob(other, digest, stored)
    return CompressedStore(other, codec)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
class TestCompressedStore(DecoratorContract):
    @pytest.fixture(autouse=True)
    def choose(self, codec: Codec) -> None:
        self.codec = codec

    def decorate(self, inner: BlobStore) -> BlobStore:
        return CompressedStore(inner, self.codec)

    @pytest.mark.parametrize("size", [1, 5000, 2**16, 2**20 + 1, 3 * 2**20])
    async def test_text_becomes_smaller_and_comes_back(self, size: int) -> None:
        inner = leaf()
        store = CompressedStore(inner, self.codec)
        data = TEXT[:size]
        digest = await put(store, data)
        assert await read_all(store, digest) == await read_blob(store, digest) == data
        stored = await read_blob(inner, digest)
        assert len(stored) < 0.6 * size + 100
        in_bulk = leaf()
        await write_blob(CompressedStore(in_bulk, self.codec), digest, data)
        assert await read_blob(in_bulk, digest) == stored

    @pytest.mark.parametrize("size", [0, 1, 5000, 3 * 2**20])
    async def test_what_cannot_be_compressed_costs_nearly_nothing(self, size: int) -> None:
        inner = leaf()
        digest = await put(CompressedStore(inner, self.codec), os.urandom(size))
        assert len(await read_blob(inner, digest)) <= size * 1.01 + 40

    @pytest.mark.parametrize("size", [1, 5000, 2**20 + 1, 3 * 2**20])
    async def test_what_is_stored_is_a_stream_that_others_read(self, size: int) -> None:
        inner = leaf()
        digest = await put(CompressedStore(inner, self.codec), TEXT[:size])
        assert standard_decompress(await read_blob(inner, digest)) == TEXT[:size]

    async def test_a_part_is_read_without_reading_the_rest(self) -> None:
        counted = CountingStore(leaf())
        store = CompressedStore(counted, self.codec)
        data = os.urandom(20 * CHUNK_BYTES)
        digest = await put(store, data)
        for offset in (0, 7_654_321, 20 * CHUNK_BYTES - 9):
            counted.read_bytes = 0
            assert await read_all(store, digest, offset=offset, limit=10) == data[offset : offset + 10]
            # A block on either side of an edge, and the table.
            assert counted.read_bytes < 2.2 * self.codec.block_bytes + 8 * len(data) / self.codec.block_bytes + 1000

    @pytest.mark.parametrize("size", [0, 99, 101, CHUNK_BYTES])
    async def test_a_blob_of_another_size_than_its_digest_is_refused(self, size: int) -> None:
        store = CompressedStore(leaf(), self.codec)
        digest = SHA256.digest(b"x")._replace(size_bytes=100)
        with pytest.raises(DigestMismatch):
            await store.put(digest, chunks_of(os.urandom(size)))
        good = os.urandom(5)
        kept = await store.put_many({digest: os.urandom(size), SHA256.digest(good): good})
        assert isinstance(kept[digest], DigestMismatch)
        assert kept[SHA256.digest(good)] is None
        assert await store.missing({digest}) == {digest}

    async def test_a_wrong_name_of_nothing_is_kept_as_nothing(self) -> None:
        store = CompressedStore(leaf(), self.codec)
        digest = Digest(SHA256, "0" * 64, 0)
        await store.put(digest, chunks_of(b""))
        assert await read_all(store, digest) == b""
        assert await store.get_many([digest]) == {digest: b""}

    @pytest.mark.parametrize("size", [1, 700, 5000])
    async def test_a_flipped_bit_anywhere_in_a_small_blob_is_found(self, size: int) -> None:
        data = TEXT[:size]
        inner = leaf()
        digest = await put(CompressedStore(inner, self.codec), data)
        stored = await read_blob(inner, digest)
        for at in range(len(stored)):
            damaged = bytearray(stored)
            damaged[at] ^= 1 << (at % 8)
            store = await replaced(inner, digest, bytes(damaged), self.codec)
            await assert_never_wrong(store, digest, data)

    async def test_a_damaged_large_blob_never_shows_wrong_bytes(self) -> None:
        data = TEXT[: 2 * CHUNK_BYTES + 77]
        inner = leaf()
        digest = await put(CompressedStore(inner, self.codec), data)
        stored = await read_blob(inner, digest)
        chance = random.Random(3)
        table = length_of_table(stored, len(data))
        places = [chance.randrange(len(stored)) for _ in range(10)]
        places += [len(stored) - 1 - at for at in range(min(table, 30))]
        for at in places:
            damaged = bytearray(stored)
            damaged[at] ^= chance.randrange(1, 256)
            store = await replaced(inner, digest, bytes(damaged), self.codec)
            await assert_never_wrong(store, digest, data)
            await assert_never_wrong(store, digest, data, offset=CHUNK_BYTES + 5, limit=1000)
        for cut in (0, 1, 8, 17, len(stored) // 2, len(stored) - 1):
            store = await replaced(inner, digest, stored[:cut], self.codec)
            with pytest.raises(BlobCorrupted):
                await read_all(store, digest)

    async def test_bytes_that_are_no_frame_are_corrupt(self) -> None:
        for size in (1, 100, 3 * CHUNK_BYTES, 20 * CHUNK_BYTES):
            data = os.urandom(size)
            store = await replaced(leaf(), SHA256.digest(data), data, self.codec)
            with pytest.raises(BlobCorrupted):
                await read_all(store, SHA256.digest(data))
            found = await store.get_many([SHA256.digest(data)])
            assert isinstance(found[SHA256.digest(data)], BlobCorrupted)

    @pytest.mark.parametrize("before", CODECS, ids=repr)
    @pytest.mark.parametrize("size", [0, 100, 300_000, 2 * CHUNK_BYTES + 5])
    async def test_what_another_codec_has_stored_stays_readable(self, before: Codec, size: int) -> None:
        inner = leaf()
        digest = await put(CompressedStore(inner, before), TEXT[:size])
        store = CompressedStore(inner, self.codec)
        assert await read_all(store, digest) == TEXT[:size]
        assert await read_all(store, digest, offset=size // 2, limit=50) == TEXT[:size][size // 2 :][:50]
        assert await read_blob(store, digest) == TEXT[:size]


async def assert_never_wrong(
    store: CompressedStore, digest: Digest, data: bytes, offset: int = 0, limit: int | None = None
) -> None:
    """Reading gives the bytes, where the damage is somewhere else, or none at all."""
    wanted = data[offset:] if limit is None else data[offset : offset + limit]
    read = bytearray()
    try:
        async for chunk in store.get(digest, offset=offset, limit=limit):
            read += chunk
    except BlobCorrupted:
        assert wanted.startswith(read)
    else:
        assert read == wanted
    found = (await store.get_many([digest]))[digest]
    assert isinstance(found, BlobCorrupted) or found == data


async def test_a_frame_that_claims_to_be_huge_takes_no_memory() -> None:
    digest = SHA256.digest(TEXT)._replace(size_bytes=1000)
    zeros = bytes(2**26)
    for frame in (zstandard.compress(zeros), lz4.frame.compress(zeros), unsized_zstd(zeros)):
        store = await replaced(leaf(), digest, frame, ZstdCodec())
        with pytest.raises(BlobCorrupted):
            await read_all(store, digest)
        with pytest.raises(FrameCorrupted, match="does not say"):
            decompress(frame, 1000)


async def test_a_large_blob_that_is_one_frame_is_not_believed() -> None:
    data = bytes(32 * CHUNK_BYTES)
    digest = SHA256.digest(data)
    store = await replaced(leaf(), digest, ZstdCodec().compress(data), ZstdCodec())
    with pytest.raises(BlobCorrupted):
        await read_all(store, digest)


async def test_a_large_blob_in_small_blocks_is_read_by_a_store_with_large_ones() -> None:
    data = TEXT[: CHUNK_BYTES // 2] * 36
    inner = leaf()
    digest = await put(CompressedStore(inner, ZstdCodec(block_bytes=4096)), data)
    counted = CountingStore(inner)
    assert (
        await read_all(CompressedStore(counted, ZstdCodec()), digest, offset=9_999_999, limit=5) == data[9_999_999:][:5]
    )
    assert counted.calls["get_many"] == 0


@pytest.mark.parametrize("codec", CODECS, ids=repr)
async def test_a_large_blob_whose_beginning_is_lost_is_corrupt(codec: Codec) -> None:
    data = TEXT[: 4 * CHUNK_BYTES + 77]
    inner = leaf()
    digest = await put(CompressedStore(inner, codec), data)
    stored = await read_blob(inner, digest)
    store = await replaced(inner, digest, stored[-length_of_table(stored, len(data)) - 10 :], codec)
    for offset in (0, len(data) - 20):
        with pytest.raises(BlobCorrupted):
            await read_all(store, digest, offset=offset)


async def test_a_large_blob_that_is_absent_is_not_found() -> None:
    with pytest.raises(BlobNotFound):
        await read_all(CompressedStore(leaf(), ZstdCodec()), SHA256.digest(TEXT))


def test_a_table_comes_back_as_it_was() -> None:
    tail = b"frames" + encode([10, 20, 5], 4096, 8200)
    table = decode(tail, 8200)
    assert table is not None
    assert list(table.starts) == [0, 10, 30, 35]
    assert [table.size_of(block) for block in range(3)] == [4096, 4096, 8]


@pytest.mark.parametrize(
    "sizes", [(4096, 4096, 9), (4096, 4095, 9), (4096, 4096, 0), (4096, 0, 4104), (4, 4, 8192), (8200, 0, 0)]
)
def test_a_table_that_is_not_of_this_blob_is_none(sizes: tuple[int, ...]) -> None:
    entries = b"".join(struct.pack("<II", 10, size) for size in sizes)
    table = struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries + struct.pack("<IBI", 3, 0, 0x8F92EAB1)
    assert decode(table, 8200) is None


def test_a_table_that_says_that_a_frame_is_far_larger_than_its_block_is_none() -> None:
    assert decode(encode([4200, 4200, 5], 4096, 8200), 8200) is not None
    assert decode(encode([4200, 2**31, 5], 4096, 8200), 8200) is None


def test_no_table_is_longer_than_a_blob_of_small_blocks_would_need() -> None:
    footer = struct.pack("<IBI", 2**31, 0, 0x8F92EAB1)
    assert length_of_table(footer, 10**9) == 0


def unsized_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def standard_decompress(stored: bytes) -> bytes:
    """Decompress as the libraries of the two formats do with any file."""
    if stored.startswith(ZstdCodec.MAGIC):
        with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as stream:
            return stream.read()
    whole = b""
    while stored:
        decompressor = lz4.frame.LZ4FrameDecompressor()
        whole += decompressor.decompress(stored)
        stored = decompressor.unused_data or b""
    return whole
