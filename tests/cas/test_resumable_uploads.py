"""Uploads that break off and are taken up again: one contract for stores that can do it and for the spool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright.blobs.store import BlobStore, read_blob
from gridwright.digest import DigestFunction
from gridwright.errors import Aborted, DigestMismatch, InvalidRequest
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.codecs import ZstdCodec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.existence_cached import ExistenceCachedStore
from gridwright_cas.stores.fast_slow import FastSlowStore
from gridwright_cas.stores.metered import MeteredStore
from gridwright_cas.stores.read_only import ReadOnlyStore
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.store import SegmentStore
from gridwright_cas.stores.size_partitioned import SizePartitionedStore
from gridwright_cas.stores.spool import Spool
from gridwright_cas.stores.spooled_uploads import SpooledUploads
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.test_metered_store import StoreRecord

SHA256 = DigestFunction.SHA256
MIB = 1024 * 1024
SIZES = [1000, 3 * MIB + 5]
SETTINGS = SegmentSettings(EvictionPolicy(max_bytes=256 * MIB), durable=False)


class BrokeOff(Exception):
    """What ends an upload in these tests."""


async def chunks_of(data: bytes, *, breaks: bool = False, pauses: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
        if pauses:
            yield b""
    if breaks:
        raise BrokeOff


class House:
    """A place for uploads that can be left and come back to, as a process does that is restarted."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._stack = AsyncExitStack()
        self.clock = FakeClock()
        self.store: BlobStore
        self.uploads: ResumableUploads

    async def open(self) -> None:
        opening = SegmentStore.opened(self._path / "store", self.clock, SETTINGS)
        segments = await self._stack.enter_async_context(opening)
        match self._kind:
            case "segments":
                self.store = VerifiedStore(SizePartitionedStore(10, MemoryStore(max_bytes=MIB), segments))
                uploads = self.store.resumable_uploads(SHA256.digest(bytes(100)))
                assert uploads is not None
                self.uploads = uploads
            case _:
                self.store = VerifiedStore(CompressedStore(segments, ZstdCodec()))
                assert self.store.resumable_uploads(SHA256.digest(b"")) is None
                threads = self._stack.enter_context(ThreadPoolExecutor(4))
                self.spool = Spool(self._path / "spool", self.clock, max_bytes=16 * MIB)
                self.uploads = SpooledUploads(self.spool, self.store, "main", threads)
                self._stack.push_async_callback(self.uploads.drained)

    async def close(self) -> None:
        await self._stack.aclose()

    async def put(self, name: UploadName, offset: int, data: bytes, **how: bool) -> None:
        await self.uploads.put(name, offset, chunks_of(data, **how))

    async def break_off(self, name: UploadName, offset: int, data: bytes) -> None:
        with pytest.raises(BrokeOff):
            await self.put(name, offset, data, breaks=True)


@pytest.fixture(params=["segments", "spool"])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    house = House(tmp_path, request.param)
    await house.open()
    yield house
    await house.close()


def blob(size: int, uuid: str = "one") -> tuple[bytes, UploadName]:
    data = os.urandom(size)
    return data, UploadName(uuid, SHA256.digest(data))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pauses", [False, True])
async def test_an_upload_becomes_a_blob(house: House, size: int, pauses: bool) -> None:
    data, name = blob(size)
    await house.put(name, 0, data, pauses=pauses)
    assert await read_blob(house.store, name.digest) == data
    assert await house.uploads.committed_bytes(name) == 0


@pytest.mark.parametrize("size", SIZES)
async def test_an_upload_that_broke_off_goes_on(house: House, size: int) -> None:
    data, name = blob(size)
    assert await house.uploads.committed_bytes(name) == 0
    offset = 0
    for end in (size // 3, size // 2):
        await house.break_off(name, offset, data[offset:end])
        offset = await house.uploads.committed_bytes(name)
        assert offset == end
    assert await house.store.missing({name.digest})
    await house.put(name, offset, data[offset:])
    assert await read_blob(house.store, name.digest) == data
    assert await house.uploads.committed_bytes(name) == 0


@pytest.mark.parametrize("size", SIZES)
async def test_an_upload_outlives_a_restart(house: House, size: int) -> None:
    data, name = blob(size)
    await house.break_off(name, 0, data[: size // 2])
    await house.close()
    await house.open()
    assert await house.uploads.committed_bytes(name) == size // 2
    await house.put(name, size // 2, data[size // 2 :])
    assert await read_blob(house.store, name.digest) == data


async def test_an_upload_that_is_cancelled_is_kept(house: House) -> None:
    data, name = blob(3 * MIB)
    has_come = asyncio.Event()

    async def standing_still() -> AsyncIterator[bytes]:
        yield data[:MIB]
        yield data[MIB : 2 * MIB]
        has_come.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(house.uploads.put(name, 0, standing_still()))
    await has_come.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await house.uploads.committed_bytes(name) == 2 * MIB
    await house.put(name, 2 * MIB, data[2 * MIB :])
    assert await read_blob(house.store, name.digest) == data


async def test_an_upload_may_begin_anew(house: House) -> None:
    data, name = blob(3 * MIB)
    await house.break_off(name, 0, os.urandom(2 * MIB))
    await house.put(name, 0, data)
    assert await read_blob(house.store, name.digest) == data


async def test_an_upload_does_not_go_on_beyond_where_it_was(house: House) -> None:
    data, name = blob(3 * MIB)
    await house.break_off(name, 0, data[:MIB])
    with pytest.raises(InvalidRequest, match=str(MIB)):
        await house.put(name, MIB + 1, data[MIB + 1 :])
    assert await house.uploads.committed_bytes(name) == MIB


@pytest.mark.parametrize("offset", [1, MIB - 1])
async def test_an_upload_may_go_on_before_where_it_was(house: House, offset: int) -> None:
    """A client that asks early hears less than what is there when it goes on."""
    data, name = blob(3 * MIB)
    await house.break_off(name, 0, data[:MIB])
    await house.break_off(name, offset, b"")
    assert await house.uploads.committed_bytes(name) == offset
    await house.put(name, offset, data[offset:])
    assert await read_blob(house.store, name.digest) == data


@pytest.mark.parametrize("size", SIZES)
async def test_other_bytes_are_refused_and_let_go(house: House, size: int) -> None:
    data, name = blob(size)
    with pytest.raises(DigestMismatch):
        await house.put(name, 0, os.urandom(size))
    assert await house.uploads.committed_bytes(name) == 0
    await house.break_off(name, 0, os.urandom(size // 2))
    with pytest.raises(Aborted, match="beginning"):
        await house.put(name, size // 2, data[size // 2 :])
    assert await house.uploads.committed_bytes(name) == 0
    assert await house.store.missing({name.digest})


async def test_two_calls_at_one_upload_do_not_mix(house: House) -> None:
    data, name = blob(3 * MIB)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield data[: 2 * MIB]
        begun.set()
        await go_on.wait()
        yield data[2 * MIB :]

    first = asyncio.create_task(house.uploads.put(name, 0, slow()))
    await begun.wait()
    with pytest.raises(Aborted):
        await house.put(name, 0, data)
    await house.uploads.forget(name)
    go_on.set()
    await first
    assert await read_blob(house.store, name.digest) == data


async def test_uploads_of_one_blob_are_kept_apart(house: House) -> None:
    data, name = blob(3000)
    names: Sequence[UploadName] = [name, name._replace(uuid="two"), name._replace(compressor="zstd")]
    for size, one in enumerate(names, start=1):
        await house.break_off(one, 0, data[:size])
    assert [await house.uploads.committed_bytes(one) for one in names] == [1, 2, 3]
    await house.uploads.forget(name)
    assert [await house.uploads.committed_bytes(one) for one in names] == [0, 2, 3]


async def test_an_upload_that_stands_still_is_heard_again_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot take uploads up holds nothing meanwhile."""
    monkeypatch.setattr("gridwright_cas.stores.spooled_uploads._STILL_SECONDS", 0.05)
    house = House(tmp_path, "spool")
    await house.open()
    data, name = blob(3 * MIB)
    paused, goes_on = asyncio.Event(), asyncio.Event()

    async def standing_still() -> AsyncIterator[bytes]:
        yield data[:MIB]
        yield b""
        paused.set()
        await goes_on.wait()
        yield data[MIB:]

    upload = asyncio.create_task(house.uploads.put(name, 0, standing_still()))
    await paused.wait()
    await asyncio.wait([upload], timeout=0.2)
    assert await house.uploads.committed_bytes(name) == MIB
    goes_on.set()
    await upload
    assert await read_blob(house.store, name.digest) == data
    await house.close()


async def test_what_was_left_in_the_spool_goes_after_an_hour(tmp_path: Path) -> None:
    house = House(tmp_path, "spool")
    await house.open()
    _, old = blob(1000, "old")
    _, new = blob(1000, "new")
    await house.break_off(old, 0, b"begun")
    house.clock.advance(1801)
    await house.break_off(new, 0, b"begun")
    house.clock.advance(1800)
    house.spool.tidy()
    assert [await house.uploads.committed_bytes(name) for name in (old, new)] == [0, 5]
    await house.close()


async def test_the_spool_is_bounded_and_an_upload_beyond_it_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_cas.stores.spool._STEP_BYTES", MIB)
    house = House(tmp_path, "spool")
    await house.open()
    _, old = blob(3 * MIB, "old")
    await house.break_off(old, 0, bytes(2 * MIB))
    house.clock.advance(1)
    data, name = blob(20 * MIB)
    await house.put(name, 0, data)
    assert await read_blob(house.store, name.digest) == data
    assert await house.uploads.committed_bytes(old) == 0
    await house.close()


async def test_decorators_that_leave_blobs_as_they_are_pass_uploads_on(tmp_path: Path) -> None:
    house = House(tmp_path, "segments")
    await house.open()
    inner, digest = house.store, SHA256.digest(bytes(100))
    cached = ExistenceCachedStore(inner, house.clock, EvictionPolicy())
    assert cached.resumable_uploads(digest) is inner.resumable_uploads(digest)
    others = [CompressedStore(inner, ZstdCodec()), FastSlowStore(inner, inner, house.clock), ReadOnlyStore(inner)]
    assert [store.resumable_uploads(digest) for store in others] == [None, None, None]
    await house.close()


async def test_a_meter_counts_each_try(tmp_path: Path) -> None:
    house = House(tmp_path, "segments")
    await house.open()
    record = StoreRecord()
    data, name = blob(3000)
    uploads = MeteredStore(house.store, record).resumable_uploads(name.digest)
    assert uploads is not None
    with pytest.raises(BrokeOff):
        await uploads.put(name, 0, chunks_of(data[:1000], breaks=True))
    await uploads.put(name, await uploads.committed_bytes(name), chunks_of(data[1000:]))
    await uploads.forget(name)
    assert record.answers == [("put", "cancelled"), ("put", "ok")]
    assert record.writes == [(0, 1, 0), (1, 0, 3000)]
    await house.close()
