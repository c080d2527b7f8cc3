"""A disk that gives back other bytes than it was given: they are never served, and they are found."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from pathlib import Path

import pytest

from gridwright.blobs.store import CHUNK_BYTES, BlobStore, write_blob
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, ConfigurationError
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.record import HEADER_BYTES
from tests.cas.segments.segment_stores import opened_store, served

SHA256 = DigestFunction.SHA256
KEY_BYTES = 1 + 32 + 8
SMALL_BYTES = 40


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with opened_store(tmp_path, FakeClock()) as store:
        yield store


async def kept(store: BlobStore, size: int) -> tuple[Digest, bytes]:
    blob = os.urandom(size)
    digest = SHA256.digest(blob)
    await store.put(digest, chunks_of(blob))
    return digest, blob


def flip(file: Path, position: int) -> None:
    """Change one bit of the byte at *position*."""
    with file.open("r+b") as opened:
        opened.seek(position)
        (byte,) = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ (1 << position % 8)]))


def record_of(path: Path, blob: bytes) -> tuple[Path, int]:
    """Return in which segment the record of a small blob is, and where it begins."""
    for segment in (path / "segments").iterdir():
        if (found := segment.read_bytes().find(blob)) >= 0:
            return segment, found - KEY_BYTES - HEADER_BYTES
    raise AssertionError("no segment has it")


def large_file_of(path: Path, blob: bytes) -> Path:
    (found,) = (file for file in (path / "large").iterdir() if file.read_bytes().startswith(blob))
    return found


async def never_served(store: BlobStore, digest: Digest, blob: bytes) -> None:
    """Read in all ways: no wrong byte may come out, and once that is known the blob is missing."""
    served_bytes = bytearray()
    with suppress(BlobNotFound, BlobCorrupted):
        async for chunk in store.get(digest):
            served_bytes += chunk
        pytest.fail("the reader was not told")
    assert blob.startswith(served_bytes)
    assert isinstance((await store.get_many([digest]))[digest], BlobNotFound)
    assert await store.missing({digest}) == {digest}
    await store.put(digest, chunks_of(blob))
    assert await read_all(store, digest) == blob


async def test_no_byte_of_a_record_can_change_unnoticed(tmp_path: Path, store: BlobStore) -> None:
    for position in range(HEADER_BYTES + KEY_BYTES + SMALL_BYTES):
        digest, blob = await kept(store, SMALL_BYTES)
        other, other_blob = await kept(store, SMALL_BYTES)
        segment, start = record_of(tmp_path, blob)
        flip(segment, start + position)
        await never_served(store, digest, blob)
        assert await served(store, [other]) == {other: other_blob}


LARGE_BYTES = 2 * CHUNK_BYTES + 5_000
#: Every sort of byte in the file of a large blob; negative ones count from its end.
LARGE_POSITIONS = {
    "first byte": 0,
    "end of a block": CHUNK_BYTES - 1,
    "start of a block": CHUNK_BYTES,
    "last block": 2 * CHUNK_BYTES,
    "last byte": LARGE_BYTES - 1,
    "padding of the last block": LARGE_BYTES,
    "end of the padding": 2 * CHUNK_BYTES + 8_191,
    "table: codec": 2 * CHUNK_BYTES + 8_192,
    "table: size": 2 * CHUNK_BYTES + 8_193,
    "table: CRC": 2 * CHUNK_BYTES + 8_197,
    "end of the table": 2 * CHUNK_BYTES + 8_192 + 3 * 9 - 1,
    "zeros": 2 * CHUNK_BYTES + 8_192 + 1_000,
    "trailer: magic": -104,
    "trailer: bytes": -96,
    "trailer: bytes per block": -88,
    "trailer: key length": -84,
    "trailer: key": -83,
    "trailer: behind the key": -5,
    "trailer: CRC": -1,
}


@pytest.mark.parametrize("position", LARGE_POSITIONS.values(), ids=LARGE_POSITIONS)
async def test_no_byte_of_a_large_file_can_change_unnoticed(tmp_path: Path, store: BlobStore, position: int) -> None:
    digest, blob = await kept(store, LARGE_BYTES)
    other, other_blob = await kept(store, LARGE_BYTES)
    file = large_file_of(tmp_path, blob)
    flip(file, position % file.stat().st_size)
    await never_served(store, digest, blob)
    assert await served(store, [other]) == {other: other_blob}


async def test_the_scrubber_finds_what_nobody_reads(tmp_path: Path) -> None:
    """In each sort of byte one blob of its own is damaged; all of them are announced as gone, and no other."""
    sound: dict[Digest, bytes] = {}
    victims: dict[Digest, bytes] = {}
    record_positions = [0, 4, 8, 12, 16, 17, 18, 19, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + KEY_BYTES, -1]
    async with opened_store(tmp_path, FakeClock()) as store:
        for position in record_positions:
            digest, blob = await kept(store, SMALL_BYTES)
            victims[digest] = blob
            sound |= [await kept(store, SMALL_BYTES)]
            segment, start = record_of(tmp_path, blob)
            flip(segment, start + position % (HEADER_BYTES + KEY_BYTES + SMALL_BYTES))
        for position in (0, 2 * CHUNK_BYTES, LARGE_POSITIONS["table: CRC"], LARGE_POSITIONS["trailer: key"]):
            digest, blob = await kept(store, LARGE_BYTES)
            victims[digest] = blob
            file = large_file_of(tmp_path, blob)
            flip(file, position % file.stat().st_size)
        sound |= [await kept(store, LARGE_BYTES)]
    gone: set[Digest] = set()
    all_gone = asyncio.Event()

    def on_removal(digests: Collection[Digest]) -> None:
        gone.update(digests)
        if gone >= set(victims):
            all_gone.set()

    async with opened_store(tmp_path, SystemClock(), scrub_bytes_per_second=2**30) as store:
        store.on_removal(on_removal)
        async with asyncio.timeout(30):
            await all_gone.wait()
        assert gone == set(victims)
        assert await served(store, sound | victims) == sound


@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "gone", "another"])
@pytest.mark.parametrize("reopened", [False, True])
async def test_a_large_file_that_is_damaged_is_a_missing_blob(tmp_path: Path, damage: str, reopened: bool) -> None:
    async with opened_store(tmp_path, FakeClock()) as store:
        digest, blob = await kept(store, LARGE_BYTES)
        other, other_blob = await kept(store, LARGE_BYTES)
        if not reopened:
            harm(large_file_of(tmp_path, blob), damage, large_file_of(tmp_path, other_blob))
            await never_served(store, digest, blob)
    if reopened:
        harm(large_file_of(tmp_path, blob), damage, large_file_of(tmp_path, other_blob))
    async with opened_store(tmp_path, FakeClock()) as store:
        if reopened:
            await never_served(store, digest, blob)
        assert await served(store, [other]) == {other: other_blob}


def harm(file: Path, damage: str, other: Path) -> None:
    """Damage a whole file."""
    match damage:
        case "shorter":
            os.truncate(file, file.stat().st_size // 2 // 4_096 * 4_096)
        case "longer":
            os.truncate(file, file.stat().st_size + 4_096)
        case "empty":
            os.truncate(file, 0)
        case "gone":
            file.unlink()
        case "another":
            file.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", ["shorter", "empty", "gone", "another"])
async def test_blobs_of_a_segment_that_is_damaged_are_missing(tmp_path: Path, damage: str) -> None:
    """And what is put again is kept, in another segment or at the end."""
    blobs: dict[Digest, bytes] = {}
    async with opened_store(tmp_path, FakeClock(), max_bytes=256 * 2**20) as store:
        for _ in range(9):
            blobs |= [await kept(store, CHUNK_BYTES - 1)]
        last, last_blob = next(reversed(blobs.items()))
        first_blob = next(iter(blobs.values()))
    (damaged, _), (other, _) = record_of(tmp_path, first_blob), record_of(tmp_path, last_blob)
    assert damaged != other
    harm(damaged, damage, other)
    async with opened_store(tmp_path, FakeClock(), max_bytes=256 * 2**20) as store:
        found = await store.get_many(list(blobs))
        there = {digest: blob for digest, blob in found.items() if isinstance(blob, bytes)}
        assert there.items() <= blobs.items()
        assert last in there
        assert set(there) == set(blobs) - await store.missing(set(blobs))
        for digest in set(blobs) - set(there):
            await write_blob(store, digest, blobs[digest])
        assert await served(store, blobs) == blobs


@pytest.mark.parametrize("damage", ["first page", "both first pages", "half", "one page", "zeros"])
async def test_an_index_that_is_damaged_stops_the_start_and_says_what_to_do(tmp_path: Path, damage: str) -> None:
    """And when that was done all blobs are there."""
    blobs = await store_with_blobs(tmp_path)
    index = tmp_path / "index" / "data.mdb"
    size = index.stat().st_size
    with index.open("r+b") as file:
        match damage:
            case "first page":
                file.write(os.urandom(4_096))
            case "both first pages":
                file.write(os.urandom(8_192))
            case "half":
                file.truncate(size // 2 // 4_096 * 4_096)
            case "one page":
                file.truncate(12_288)
            case "zeros":
                file.seek(8_192)
                file.write(bytes(size - 8_192))
    with pytest.raises(ConfigurationError, match=r"index.*remove .*/index: it is then made again"):
        await opened_store(tmp_path, FakeClock()).__aenter__()
    shutil.rmtree(tmp_path / "index")
    async with opened_store(tmp_path, FakeClock()) as store:
        assert await served(store, blobs) == blobs


@pytest.mark.parametrize("damage", ["empty", "gone", "directory gone"])
async def test_an_index_that_is_lost_is_made_again(tmp_path: Path, damage: str) -> None:
    blobs = await store_with_blobs(tmp_path)
    match damage:
        case "empty":
            os.truncate(tmp_path / "index" / "data.mdb", 0)
        case "gone":
            (tmp_path / "index" / "data.mdb").unlink()
        case "directory gone":
            shutil.rmtree(tmp_path / "index")
    for _ in range(2):
        async with opened_store(tmp_path, FakeClock()) as store:
            assert await served(store, blobs) == blobs
            blobs |= [await kept(store, 1_000), await kept(store, LARGE_BYTES)]


async def store_with_blobs(path: Path) -> dict[Digest, bytes]:
    """Make a store of several segments and large files."""
    blobs: dict[Digest, bytes] = {}
    for _ in range(2):
        async with opened_store(path, FakeClock()) as store:
            for size in (100, 5_000, CHUNK_BYTES, LARGE_BYTES):
                blobs |= [await kept(store, size)]
            many = {SHA256.digest(blob): blob for blob in map(os.urandom, [50] * 1_500)}
            assert await store.put_many(many) == dict.fromkeys(many)
            blobs |= many
    return blobs
