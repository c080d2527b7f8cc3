"""SegmentStore keeps the promises of a BlobStore."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, write_blob
from gridwright.clock import Clock, SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, ConfigurationError, InvalidDigest, Unavailable
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.clock import FakeClock
from gridwright.testing.leaf_contract import LeafContract
from gridwright_cas.stores.segments.disk import Buffer, Disk, SystemDisk
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.room import large_holder
from gridwright_cas.stores.segments.row import Row, SegmentState, pack_row, unpack_row
from gridwright_cas.stores.segments.store import SegmentStore
from tests.cas.segments.segment_stores import served

SHA256 = DigestFunction.SHA256


def opened(
    path: Path,
    clock: Clock | None = None,
    *,
    max_bytes: int = 2**28,
    durable: bool = True,
    disk: Disk | None = None,
) -> AbstractAsyncContextManager[SegmentStore]:
    settings = SegmentSettings(EvictionPolicy(max_bytes=max_bytes), durable=durable)
    return SegmentStore.opened(path, clock or FakeClock(), settings, disk=disk)


class TestSegmentStore(LeafContract):
    @pytest.fixture(params=[True, False], ids=["durable", "relaxed"])
    async def store(self, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[BlobStore]:
        async with opened(tmp_path, durable=request.param) as store:
            yield store


class CountingDisk(SystemDisk):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.read_bytes = 0

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        self.calls["write"] += 1
        super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self.calls["sync"] += 1
        super().sync(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.calls["read"] += 1
        data = super().read(fd, size, offset)
        self.read_bytes += len(data)
        return data

    def read_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        self.calls["read"] += 1
        return super().read_cached(fd, size, offset)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self.calls["open"] += 1
        return super().open(path, flags, mode)


def random_blobs(count: int, size: int = 900) -> dict[Digest, bytes]:
    return {SHA256.digest(data): data for data in (os.urandom(size) for _ in range(count))}


def segment_paths(path: Path) -> list[Path]:
    return sorted(path.glob("segments/*"), key=lambda segment: int(segment.name))


async def row_of(store: SegmentStore, digest: Digest) -> Row:
    row = store.engine.index.row_of(key_of(digest))
    assert row is not None
    return row


async def hears_removals(store: SegmentStore) -> tuple[set[Digest], asyncio.Event]:
    heard: set[Digest] = set()
    changed = asyncio.Event()

    def hear(digests: Collection[Digest]) -> None:
        heard.update(digests)
        changed.set()

    store.on_removal(hear)
    return heard, changed


@pytest.mark.parametrize("size", [1, 900, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_blobs_survive_a_restart(tmp_path: Path, size: int) -> None:
    blobs = random_blobs(3, size)
    async with opened(tmp_path) as store:
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
    async with opened(tmp_path) as store:
        assert await served(store, blobs) == blobs


async def test_small_blobs_share_a_segment_and_large_ones_have_files(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put_many(random_blobs(100) | random_blobs(2, CHUNK_BYTES) | random_blobs(2, CHUNK_BYTES + 1))
        assert len(segment_paths(tmp_path)) == 1
        assert len(list((tmp_path / "large").iterdir())) == 2


async def test_a_batch_costs_one_append_one_synchronisation_and_few_reads(tmp_path: Path) -> None:
    disk = CountingDisk()
    blobs = random_blobs(1000)
    async with opened(tmp_path, disk=disk) as store:
        await store.put_many(random_blobs(1))  # so that there is a segment
        disk.calls.clear()
        await store.put_many(blobs)
        assert disk.calls == Counter(write=1, sync=1)
        disk.calls.clear()
        assert await store.get_many(blobs) == blobs
        assert disk.calls["open"] == 1
        assert disk.calls["read"] < 20


async def test_uploads_that_come_while_the_disk_is_busy_are_written_together(tmp_path: Path) -> None:
    disk = CountingDisk()
    blobs = random_blobs(500)
    async with opened(tmp_path, disk=disk) as store:
        await asyncio.gather(*(store.put(digest, chunks_of(data)) for digest, data in blobs.items()))
        assert disk.calls["sync"] < 20
        assert await served(store, blobs) == blobs


async def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    disk = CountingDisk()
    blobs = random_blobs(10) | random_blobs(1, CHUNK_BYTES + 1)
    async with opened(tmp_path, disk=disk) as store:
        await store.put_many(blobs)
        disk.calls.clear()
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        for digest, data in blobs.items():
            await store.put(digest, chunks_of(data))
        assert disk.calls["write"] == 0


async def test_opening_reads_nothing_of_what_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put_many(random_blobs(1000) | random_blobs(2, 2 * CHUNK_BYTES))
    disk = CountingDisk()
    async with opened(tmp_path, disk=disk):
        assert disk.read_bytes == 0


async def test_what_a_killed_process_had_appended_and_not_indexed_is_replayed(tmp_path: Path) -> None:
    small, large = random_blobs(5), random_blobs(1, CHUNK_BYTES + 1)
    async with opened(tmp_path) as store:
        await store.put_many(small | large)
        _undo_index(store)
    async with opened(tmp_path) as store:
        assert await served(store, small | large) == small | large


@pytest.mark.parametrize("cut", [1, 500, 899, 905, 950, 961])
async def test_a_torn_record_is_cut_off_and_those_before_it_are_replayed(tmp_path: Path, cut: int) -> None:
    first, last = random_blobs(5), random_blobs(1)
    async with opened(tmp_path) as store:
        await store.put_many(first)
        await store.put_many(last)
        _undo_index(store)
    (segment,) = segment_paths(tmp_path)
    whole = segment.stat().st_size
    os.truncate(segment, whole - cut)
    async with opened(tmp_path) as store:
        assert await served(store, first | last) == first
        assert segment.stat().st_size == whole - 961
        assert await store.put_many(last) == {digest: None for digest in last}
        assert await served(store, last) == last


async def test_a_rotten_record_is_answered_as_missing_announced_and_can_come_again(tmp_path: Path) -> None:
    blobs = random_blobs(3)
    rotten = next(iter(blobs))
    async with opened(tmp_path, SystemClock()) as store:
        await store.put_many(blobs)
        heard, changed = await hears_removals(store)
        _flip(segment_paths(tmp_path)[0], (await row_of(store, rotten)).offset + 200)
        found = await store.get_many(blobs)
        assert isinstance(found[rotten], BlobNotFound)
        assert await store.missing(set(blobs)) == {rotten}
        assert {digest for digest in blobs if found[digest] == blobs[digest]} == set(blobs) - {rotten}
        async with asyncio.timeout(10):
            await changed.wait()
        assert heard == {rotten}
        assert store.engine.stats.corrupt_blobs == 1
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await served(store, blobs) == blobs


@pytest.mark.parametrize(("directory", "size"), [("segments", 1000), ("large", 3 * CHUNK_BYTES)])
async def test_a_directory_that_is_gone_for_a_moment_costs_no_blob(tmp_path: Path, directory: str, size: int) -> None:
    blobs = random_blobs(3, size)
    async with opened(tmp_path) as store:
        for digest, data in blobs.items():
            await store.put(digest, chunks_of(data))
    async with opened(tmp_path) as store:
        (tmp_path / directory).rename(tmp_path / "away")
        for digest in blobs:
            with pytest.raises(Unavailable):
                await read_all(store, digest)
        (tmp_path / "away").rename(tmp_path / directory)
        assert await served(store, blobs) == blobs


async def test_a_large_blob_that_is_rotten_at_its_start_is_answered_as_missing(tmp_path: Path) -> None:
    ((digest, data),) = random_blobs(1, 3 * CHUNK_BYTES).items()
    async with opened(tmp_path) as store:
        await store.put(digest, chunks_of(data))
        (file,) = (tmp_path / "large").iterdir()
        _flip(file, 5)
        with pytest.raises(BlobNotFound):
            await read_all(store, digest)
        assert await store.missing({digest}) == {digest}


async def test_a_large_blob_that_is_rotten_further_on_is_not_sent_further_and_is_missing_then(tmp_path: Path) -> None:
    ((digest, data),) = random_blobs(1, 3 * CHUNK_BYTES).items()
    async with opened(tmp_path) as store:
        await store.put(digest, chunks_of(data))
        (file,) = (tmp_path / "large").iterdir()
        _flip(file, 2 * CHUNK_BYTES + 5)
        chunks = store.get(digest)
        assert await anext(chunks) + await anext(chunks) == data[: 2 * CHUNK_BYTES]
        with pytest.raises(BlobCorrupted):
            await anext(chunks)
        assert await store.missing({digest}) == {digest}


async def test_a_record_that_moves_while_it_is_looked_for_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((digest, data),) = random_blobs(1).items()
    async with opened(tmp_path) as store:
        await write_blob(store, digest, data)
        index = store.engine.index
        values_of, row = index.values_of, await row_of(store, digest)
        stale = pack_row(row._replace(segment=row.segment + 1))
        answers: list[list[bytes | None]] = [[stale]]
        monkeypatch.setattr(index, "values_of", lambda keys: answers.pop() if answers else values_of(keys))
        assert await read_all(store, digest) == data
        assert answers == []
        assert await store.missing({digest}) == set()


async def test_a_use_is_noted_when_the_last_note_is_ten_minutes_old(tmp_path: Path) -> None:
    clock = FakeClock()
    ((digest, data),) = random_blobs(1).items()
    async with opened(tmp_path, clock) as store:
        await write_blob(store, digest, data)
        written_ms = (await row_of(store, digest)).touched_ms
        clock.advance(599)
        assert await store.missing({digest}) == set()
    async with opened(tmp_path, clock) as store:
        assert (await row_of(store, digest)).touched_ms == written_ms
        clock.advance(2)
        assert await read_all(store, digest) == data
    async with opened(tmp_path, clock) as store:
        assert (await row_of(store, digest)).touched_ms == written_ms + 601_000


async def test_a_use_is_noted_when_the_last_note_is_of_a_clock_that_was_set_back_since(tmp_path: Path) -> None:
    clock = FakeClock()
    blobs = random_blobs(3)
    async with opened(tmp_path, clock) as store:
        await store.put_many(blobs)
        clock.set_back(7 * 24 * 3600)
        asked, read, put = blobs
        assert await store.missing({asked}) == set()
        assert await read_all(store, read) == blobs[read]
        await store.put_many({put: blobs[put]})
    async with opened(tmp_path, clock) as store:
        assert {(await row_of(store, digest)).touched_ms for digest in blobs} == {int(clock.now() * 1000)}


async def test_a_use_travels_with_the_next_group(tmp_path: Path) -> None:
    clock = FakeClock()
    ((digest, data),) = random_blobs(1).items()
    async with opened(tmp_path, clock) as store:
        await write_blob(store, digest, data)
        clock.advance(700)
        await store.missing({digest})
        await store.put_many(random_blobs(1))
        assert (await row_of(store, digest)).touched_ms == int(clock.now() * 1000)


async def test_a_blob_that_was_not_used_for_max_seconds_is_missing_and_can_come_again(tmp_path: Path) -> None:
    clock = FakeClock()
    blobs = random_blobs(2) | random_blobs(1, CHUNK_BYTES + 1)
    settings = SegmentSettings(EvictionPolicy(max_bytes=2**28, max_seconds=100))
    async with SegmentStore.opened(tmp_path, clock, settings) as store:
        await store.put_many(blobs)
        clock.advance(101)
        assert await served(store, blobs) == {}
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await served(store, blobs) == blobs


async def test_a_hash_that_is_none_is_refused_before_it_becomes_a_key(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(InvalidDigest):
            await store.missing({Digest(SHA256, "../" * 21 + "x", 5)})


async def test_without_a_bound_it_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_bytes"):
        async with opened(tmp_path, max_bytes=0):
            pass


async def test_an_operator_sees_what_it_holds(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put_many(random_blobs(7))
        assert f"{tmp_path}: 7 blobs" in repr(store)


def _undo_index(store: SegmentStore) -> None:
    """Let the index know nothing of what the open segment holds: as after a kill between append and commit."""
    index, room = store.engine.index, store.engine.room
    with index.writing() as txn:
        ((segment, state),) = index.segments.states(txn).items()
        with txn.cursor() as cursor:
            rows = [(key, unpack_row(value)) for key, value in cursor]
        index.remove(txn, rows)
        index.segments.put(txn, segment, SegmentState(0, 0, 0, state.created_ms, state.created_ms, 0))
        for _, row in rows:
            if row.is_large:
                room.settle(txn, large_holder(row.offset), row.stored_bytes)
    # What closes now must not seal it.
    writer = store.engine.writer
    assert writer._segment is not None
    writer._segment.close(sealed=False)
    writer._segment = None


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))
