"""What goes past the page cache comes back the same, and where that is refused nothing changes."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import CHUNK_BYTES
from gridwright.digest import Digest, DigestFunction
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.direct_io import (
    BLOCK_BYTES,
    BUFFER_BYTES,
    LARGE_BYTES,
    AlignedBuffer,
    BufferPool,
    LatelyRead,
    bypass_cache,
    read_at,
)
from gridwright_cas.stores.filesystem import FilesystemStore
from gridwright_cas.stores.new_file import open_new

SHA256 = DigestFunction.SHA256
_NOISE = os.urandom(LARGE_BYTES + BUFFER_BYTES)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemStore]:
    async with FilesystemStore.opened(tmp_path / "cas", FakeClock(), EvictionPolicy(2**28)) as store:
        yield store


def _is_direct(descriptor: int) -> bool:
    return any(int(line.split()[1], 8) & os.O_DIRECT for line in _flags(descriptor))


def _flags(descriptor: int) -> list[str]:
    return [line for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if "flags" in line]


@pytest.mark.parametrize("extra", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, BUFFER_BYTES - 1])
@pytest.mark.parametrize("piece_bytes", [CHUNK_BYTES, 999_983])
async def test_a_large_blob_comes_back_the_same(store: FilesystemStore, extra: int, piece_bytes: int) -> None:
    data = _NOISE[: LARGE_BYTES + extra]
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data, piece_bytes))
    for _ in ("past the cache", "through it"):
        assert b"".join([chunk async for chunk in store.get(digest)]) == data


@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, CHUNK_BYTES + 1])
async def test_a_large_part_of_a_large_blob_comes_back_the_same(store: FilesystemStore, offset: int) -> None:
    digest = SHA256.digest(_NOISE)
    await store.put(digest, chunks_of(_NOISE, CHUNK_BYTES))
    limit = LARGE_BYTES + 7
    found = b"".join([chunk async for chunk in store.get(digest, offset=offset, limit=limit)])
    assert found == _NOISE[offset : offset + limit]


async def test_a_reader_may_leave_a_large_blob_half_way(store: FilesystemStore) -> None:
    digest = SHA256.digest(_NOISE)
    await store.put(digest, chunks_of(_NOISE, CHUNK_BYTES))
    reading = store.get(digest)
    first = await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]
    assert _NOISE.startswith(first)


def test_large_files_are_written_past_the_cache_and_others_through_it(tmp_path: Path) -> None:
    buffers = BufferPool()
    for name, size_bytes, direct in [("large", LARGE_BYTES, True), ("small", LARGE_BYTES - 1, False)]:
        file = open_new(str(tmp_path / name), size_bytes, buffers)
        descriptor = next(int(fd) for fd in os.listdir("/proc/self/fd") if _leads_to(fd, tmp_path / name))
        assert _is_direct(descriptor) is direct
        file.close()


def test_when_all_buffers_are_taken_a_large_file_goes_through_the_cache(tmp_path: Path) -> None:
    buffers = BufferPool(limit=1)
    first = open_new(str(tmp_path / "first"), LARGE_BYTES, buffers)
    second = open_new(str(tmp_path / "second"), LARGE_BYTES, buffers)
    for file in (first, second):
        for start in range(0, len(_NOISE), CHUNK_BYTES):
            file.write([_NOISE[start : start + CHUNK_BYTES]])
        file.complete(durable=True)
        file.close()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes() == _NOISE


def test_a_file_system_without_direct_io_is_told() -> None:
    descriptor = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert bypass_cache(descriptor) is False
    finally:
        os.close(descriptor)


def test_any_range_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_NOISE[: 3 * BLOCK_BYTES + 5])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert bypass_cache(descriptor)
        for offset, size in [
            (0, 1),
            (1, BLOCK_BYTES),
            (BLOCK_BYTES, 5),
            (3 * BLOCK_BYTES, 5),
            (0, 3 * BLOCK_BYTES + 5),
        ]:
            assert read_at(descriptor, size, offset) == _NOISE[offset : offset + size]
        assert read_at(descriptor, 100, 3 * BLOCK_BYTES + 1) == _NOISE[3 * BLOCK_BYTES + 1 : 3 * BLOCK_BYTES + 5]
    finally:
        os.close(descriptor)


def test_a_buffer_pads_what_is_left_with_zeros() -> None:
    buffer = AlignedBuffer()
    assert len(buffer.fill(memoryview(b"x" * BUFFER_BYTES + b"rest"))) == 4
    assert buffer.is_full
    assert bytes(buffer.take()) == b"x" * BUFFER_BYTES
    buffer.fill(memoryview(b"rest"))
    assert bytes(buffer.take()) == b"rest" + bytes(BLOCK_BYTES - 4)


def test_a_blob_read_again_soon_is_worth_the_cache() -> None:
    lately = LatelyRead()
    digest = Digest(SHA256, "0" * 64, LARGE_BYTES)
    assert [lately.note(digest, now) for now in (0.0, 10.0, 500.0, 5000.0)] == [False, True, True, False]


def _leads_to(descriptor: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:
        return False
