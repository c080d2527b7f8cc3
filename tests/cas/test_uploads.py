"""Uploads of one process: bounded in number and memory, and small ones kept too when they break off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.resumable import UploadName
from gridwright.blobs.store import BlobStore, read_blob
from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest, ResourceExhausted
from gridwright_cas.servicers.upload_memory import UploadMemory
from gridwright_cas.servicers.uploaded_bytes import ThereAlready
from gridwright_cas.servicers.uploads import UploadBounds, Uploads
from gridwright_cas.stores.spool import Spool
from gridwright_cas.stores.verified import VerifiedStore

SHA256 = DigestFunction.SHA256
MIB = 1024 * 1024


class BrokeOff(Exception):
    """What ends an upload in these tests."""


def blob(size: int) -> tuple[bytes, UploadName]:
    data = os.urandom(size)
    return data, UploadName("one", SHA256.digest(data))


async def chunks_of(*chunks: bytes, breaks: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if breaks:
        raise BrokeOff


@pytest.fixture
def store() -> BlobStore:
    return VerifiedStore(MemoryStore(max_bytes=64 * MIB))


@pytest.fixture
async def uploads(tmp_path: Path, store: BlobStore) -> AsyncIterator[Uploads]:
    spool = Spool(tmp_path / "spool", SystemClock(), max_bytes=64 * MIB)
    async with Uploads.opened({"main": store}, UploadBounds(max_count=3), spool) as uploads:
        yield uploads


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_small_upload_that_breaks_off_is_kept(uploads: Uploads, store: BlobStore, pauses: bool) -> None:
    data, name = blob(1000)
    first = [data[:200], *([b""] if pauses else []), data[200:600]]
    with pytest.raises(BrokeOff):
        await uploads.put("main", name, 0, chunks_of(*first, breaks=True))
    assert await uploads.committed_bytes("main", name) == 600
    await uploads.put("main", name, 600, chunks_of(data[600:]))
    assert await read_blob(store, name.digest) == data


async def test_a_small_upload_leaves_no_file(uploads: Uploads, store: BlobStore, tmp_path: Path) -> None:
    data, name = blob(1000)
    await uploads.put("main", name, 0, chunks_of(data))
    assert not (tmp_path / "spool").exists()


async def test_calls_at_one_upload_all_succeed(uploads: Uploads, store: BlobStore) -> None:
    """BSW-20."""
    data, name = blob(3 * MIB)
    await asyncio.gather(*(uploads.put("main", name, 0, chunks_of(data[:MIB], b"", data[MIB:])) for _ in range(3)))
    assert await read_blob(store, name.digest) == data


async def test_who_goes_on_with_an_upload_that_has_been_finished_hears_so(uploads: Uploads) -> None:
    """A call that was cut may come to its end after the client has asked how far it was."""
    data, name = blob(3 * MIB)
    with pytest.raises(BrokeOff):
        await uploads.put("main", name, 0, chunks_of(data[:MIB], breaks=True))
    offset = await uploads.committed_bytes("main", name)
    await uploads.put("main", name, offset, chunks_of(data[offset:]))
    with pytest.raises(ThereAlready):
        await uploads.put("main", name, offset, chunks_of(data[offset:]))


async def test_the_number_of_uploads_is_bounded(uploads: Uploads) -> None:
    waiting = asyncio.Event()

    async def standing_still() -> AsyncIterator[bytes]:
        yield b"x"
        await waiting.wait()

    names = [UploadName(str(number), SHA256.digest(b"xy")) for number in range(4)]
    running = [asyncio.create_task(uploads.put("main", name, 0, standing_still())) for name in names[:3]]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await uploads.put("main", names[3], 0, chunks_of(b"xy"))
    assert caught.value.retry_after_seconds
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await uploads.put("main", names[3], 0, chunks_of(b"xy"))


async def test_without_a_spool_an_upload_begins_again(store: BlobStore) -> None:
    data, name = blob(3 * MIB)
    uploads = Uploads({"main": store})
    with pytest.raises(BrokeOff):
        await uploads.put("main", name, 0, chunks_of(data[:MIB], breaks=True))
    assert await uploads.committed_bytes("main", name) == 0
    with pytest.raises(InvalidRequest):
        await uploads.put("main", name, MIB, chunks_of(data[MIB:]))
    await uploads.put("main", name, 0, chunks_of(data))
    assert await read_blob(store, name.digest) == data


async def test_many_uploads_are_written_early() -> None:
    memory = UploadMemory(1000)
    streams = [memory.bounded(chunks_of(bytes(200), bytes(200))) for _ in range(10)]
    held = []
    for stream in streams:
        assert await anext(stream) == bytes(200)
        held.append(memory.held_bytes)
    assert max(held) == 2000  # what has come is not sent back ...
    assert [await anext(stream) for stream in streams[:6]] == [b""] * 6  # ... but written before there is more
    for stream in streams:
        await stream.aclose()
    assert memory.held_bytes == 0


async def test_one_upload_is_not_written_early() -> None:
    memory = UploadMemory(1000)
    assert [chunk async for chunk in memory.bounded(chunks_of(bytes(200), bytes(200)))] == [bytes(200)] * 2


async def test_a_pause_lets_go_of_what_is_held() -> None:
    memory = UploadMemory(1000)
    stream = memory.bounded(chunks_of(bytes(200), b"", bytes(100)))
    assert [len(await anext(stream)) for _ in range(3)] == [200, 0, 100]
    assert memory.held_bytes == 100
    await stream.aclose()


async def test_where_memory_stays_short_an_upload_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_cas.servicers.upload_memory._PATIENCE_SECONDS", 0.01)
    memory = UploadMemory(1000)
    stuck = memory.bounded(chunks_of(bytes(1500)))
    await anext(stuck)
    other = memory.bounded(chunks_of(bytes(600), bytes(600)))
    assert [len(await anext(other)) for _ in range(2)] == [600, 0]
    with pytest.raises(ResourceExhausted):
        await anext(other)
    await stuck.aclose()
