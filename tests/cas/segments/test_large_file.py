"""Large blobs: any offset is readable, every byte is checked before it is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, BlobNotFound, ResourceExhausted
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.direct_io import LARGE_BYTES, AlignedBuffer
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.large_file import BLOCK_BYTES, LargeFile, LargeFileWriter, file_bytes
from gridwright_cas.stores.segments.large_files import KeptFile
from gridwright_cas.stores.segments.room import large_holder
from tests.cas.segments.house import MIB, SHA256, House

SIZES = [0, 1, 4095, 4096, 4097, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, FakeClock(), policy=EvictionPolicy(max_bytes=256 * MIB))
    yield house
    house.close()


def upload(house: House, data: bytes, *, piece_bytes: int = 100_000) -> KeptFile:
    upload = house.large.begin(SHA256.digest(data))
    try:
        upload.write([data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)])
        return upload.finish()
    finally:
        upload.close()


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_can_be_read_from_any_offset(house: House, size: int) -> None:
    data = os.urandom(size)
    kept = upload(house, data)
    file = house.large.open(kept.file_id, SHA256.digest(data))
    try:
        assert file.stored_bytes == size
        assert b"".join(file.blocks()) == data
        for start in {0, size // 2, max(0, size - 1)} - {size}:
            block_end = min(size, (start // BLOCK_BYTES + 1) * BLOCK_BYTES)
            assert file.read(start, start + 1) == data[start : start + 1]
            assert file.read(start, size) == data[start:block_end]
    finally:
        file.close()
    assert os.path.getsize(house.large.path_of(kept.file_id)) == kept.cost_bytes == file_bytes(size)


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 5, LARGE_BYTES + BLOCK_BYTES])
def test_past_the_page_cache_it_is_the_same_file(house: House, size: int) -> None:
    data = os.urandom(size)
    kept = upload(house, data, piece_bytes=70_001)
    for _ in range(2):  # the first time past the cache, the second time through it
        file = house.large.open(kept.file_id, SHA256.digest(data))
        try:
            assert b"".join(file.blocks()) == data
        finally:
            file.close()


@pytest.mark.parametrize("cut_at", [1, 4096, 5000, BLOCK_BYTES, BLOCK_BYTES + 4096 + 1, 2 * BLOCK_BYTES + 3])
@pytest.mark.parametrize("direct", [False, True])
def test_a_file_that_was_left_half_way_can_be_taken_up(tmp_path: Path, cut_at: int, direct: bool) -> None:
    disk, data = SystemDisk(), os.urandom(3 * BLOCK_BYTES + 77)
    digest = SHA256.digest(data)
    for part in (data[:cut_at], data[cut_at:]):
        descriptor = disk.open(str(tmp_path / "file"), os.O_RDWR | os.O_CREAT)
        buffer = AlignedBuffer() if direct and disk.bypass_cache(descriptor) else None
        writer = LargeFileWriter(disk, descriptor, buffer)
        hashed = hashlib.sha256()
        writer.resume(disk.size(descriptor), hashed.update)
        assert hashed.digest() == hashlib.sha256(data[: writer.stored_bytes]).digest()
        writer.write([part[:1000], part[1000:]])
        writer.flush()
        assert disk.size(descriptor) == writer.stored_bytes
        if writer.stored_bytes == len(data):
            writer.finish(digest)
        disk.close(descriptor)
    file = LargeFile(disk, disk.open(str(tmp_path / "file"), os.O_RDONLY), digest)
    assert b"".join(file.blocks()) == data
    file.close()


def test_a_flipped_bit_is_found_wherever_it_is(house: House) -> None:
    data = os.urandom(2 * BLOCK_BYTES + 5000)
    digest = SHA256.digest(data)
    kept = upload(house, data)
    path = Path(house.large.path_of(kept.file_id))
    whole = path.read_bytes()
    data_end, end = len(data), len(whole)
    # Blocks, the zeros behind the last one, the table, the zeros behind it, and every byte of the trailer.
    places = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, data_end - 1, data_end, data_end + 1000, 2 * BLOCK_BYTES + 8192]
    places += [2 * BLOCK_BYTES + 8192 + 30, end - 2000, *range(end - 110, end)]
    for place in places:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ 1]))
        with pytest.raises(BlobCorrupted):
            read_whole(house, kept, digest)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(whole[place : place + 1])
    opened = house.large.open(kept.file_id, digest)
    assert b"".join(opened.blocks()) == data
    opened.close()


@pytest.mark.parametrize("left", [0, 1, 4096, 5000, BLOCK_BYTES, 2 * BLOCK_BYTES - 1])
def test_a_file_that_was_cut_short_is_found_before_a_byte_is_sent(house: House, left: int) -> None:
    data = os.urandom(2 * BLOCK_BYTES)
    kept = upload(house, data)
    os.truncate(house.large.path_of(kept.file_id), left)
    with pytest.raises(BlobCorrupted):
        house.large.open(kept.file_id, SHA256.digest(data))


def test_a_file_of_another_blob_is_not_taken_for_this_one(house: House) -> None:
    kept = upload(house, os.urandom(BLOCK_BYTES))
    with pytest.raises(BlobCorrupted):
        house.large.open(kept.file_id, SHA256.digest(os.urandom(10)))


def test_a_file_that_is_gone_is_a_blob_that_is_not_there(house: House) -> None:
    with pytest.raises(BlobNotFound):
        house.large.open(4711, SHA256.digest(b"gone"))


def test_an_upload_that_is_not_finished_leaves_nothing_and_takes_nothing(house: House) -> None:
    unfinished = house.large.begin(SHA256.digest(bytes(2 * MIB)))
    unfinished.write([bytes(MIB)])
    assert house.large.file_ids()
    unfinished.close()
    unfinished.write([bytes(MIB)])  # the thread of a task that was cancelled comes late
    assert house.large.file_ids() == set()
    with house.index.reading() as txn:
        assert list(house.room.charges(txn, b"L")) == []


def test_an_upload_takes_what_its_file_takes_once_it_is_finished(house: House) -> None:
    data = os.urandom(5 * MIB)
    digest = house.put_large(data)
    with house.index.reading() as txn:
        assert [charge for _, charge in house.room.charges(txn, b"L")] == [(file_bytes(len(data)), 0)]
    assert house.get(digest) == data


def test_more_may_come_than_was_announced_as_long_as_there_is_room(house: House) -> None:
    upload = house.large.begin(SHA256.digest(b"small"))
    try:
        upload.write([bytes(MIB)] * 3)
        kept = upload.finish()
    finally:
        upload.close()
    assert kept.stored_bytes == 3 * MIB
    house.large.discard(kept)
    assert not house.room.is_taken(large_holder(kept.file_id))
    assert house.large.file_ids() == set()


def test_an_upload_takes_no_more_room_ahead_than_has_come_already(house: House) -> None:
    upload = house.large.begin(SHA256.digest(b"stalls")._replace(size_bytes=2**40))
    try:
        upload.write([bytes(MIB)])
        with house.index.reading() as txn:
            assert house.room.used_by(txn, b"L") <= 2 * file_bytes(MIB)
    finally:
        upload.close()


def test_an_upload_that_cannot_fit_is_refused(house: House) -> None:
    upload = house.large.begin(SHA256.digest(bytes(100))._replace(size_bytes=2**40))
    try:
        upload.write([bytes(MIB)])  # what was only announced takes no room yet
        with pytest.raises(ResourceExhausted):
            upload.write([bytes(MIB)] * 256)
    finally:
        upload.close()
    assert house.large.file_ids() == set()


def read_whole(house: House, kept: KeptFile, digest: Digest) -> None:
    file = house.large.open(kept.file_id, digest)
    try:
        for _ in file.blocks():
            pass
    finally:
        file.close()
