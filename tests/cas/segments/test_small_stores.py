"""Small stores of tiny blobs: the index is the larger part of them, and ``du`` stays within the bound all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.compact_copy import write_compact_copy
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.key import key_of, keys_of
from gridwright_cas.stores.segments.segment_writer import Writes
from tests.cas.segments.failing_disk import FailingDisk
from tests.cas.segments.power_cut import Cut, Survival
from tests.cas.segments.segment_stores import disk_bytes, opened_store, served
from tests.cas.segments.volatile_disk import VolatileDisk

SHA256 = DigestFunction.SHA256
MB = 1_000_000
MAX_BYTES = 16 * MB
#: What a blob of 100 bytes takes: a record, and a row in pages of which there are two former copies.
TAKEN_BYTES = 161 + 3 * 170


def blobs_of(count: int, size: int) -> dict[Digest, bytes]:
    return {SHA256.digest(blob): blob for blob in (os.urandom(size) for _ in range(count))}


async def test_five_times_the_capacity_in_tiny_blobs_goes_through_and_du_stays_within_the_bound(tmp_path: Path) -> None:
    most, batches = 0, [blobs_of(1, 100)]
    async with opened_store(tmp_path, SystemClock(), max_bytes=MAX_BYTES, durable=False) as store:
        for number in range(0, 5 * MAX_BYTES // TAKEN_BYTES, 4_000):
            batches = [blobs_of(1_000, 100) for _ in range(4)]
            for kept in await asyncio.gather(*map(store.put_many, batches)):
                assert not any(kept.values())
            if number % 40_000 == 0:
                most = max(most, disk_bytes(tmp_path))
        most = max(most, disk_bytes(tmp_path))
        assert store.engine.stats.refused_uploads == 0
        assert await served(store, batches[-1]) == batches[-1]
    assert MAX_BYTES / 2 < most <= MAX_BYTES


async def test_large_blobs_find_room_after_tiny_ones(tmp_path: Path) -> None:
    async with opened_store(tmp_path, SystemClock(), max_bytes=MAX_BYTES, durable=False) as store:
        for _ in range(60):
            await store.put_many(blobs_of(1_000, 50))
        blob = os.urandom(4 * MB)
        digest = SHA256.digest(blob)
        await store.put(digest, chunks_of(blob))
        assert disk_bytes(tmp_path) <= MAX_BYTES
        assert await served(store, {digest}) == {digest: blob}


def settings(max_bytes: int) -> SegmentSettings:
    return SegmentSettings(EvictionPolicy(max_bytes=max_bytes))


def write(engine: Engine, blobs: dict[Digest, bytes]) -> None:
    engine.writer.commit(engine.writer.append(Writes([(key_of(digest), blob) for digest, blob in blobs.items()])))


class Filled(NamedTuple):
    """A store most of which is index."""

    last: dict[Digest, bytes]
    #: With this bound its index is too large, and would not be without its free pages.
    max_bytes: int
    #: With this bound it has too many rows.
    too_few_bytes: int


def filled_with_rows(path: Path, disk: Disk | None = None, *, batch: int = 1_000) -> Filled:
    engine = Engine.open(path, FakeClock(), settings(64 * MB), disk)
    last: dict[Digest, bytes] = {}
    for number in range(12):
        last = blobs_of(batch, 10 + number % 2 * 50)
        write(engine, last)
    used_bytes = engine.room.index_size().used_bytes
    engine.close()
    return Filled(last, 9 * used_bytes, 5 * used_bytes)


def kept_of(path: Path, blobs: dict[Digest, bytes], disk: Disk | None = None) -> int:
    engine = Engine.open(path, FakeClock(), settings(64 * MB), disk)
    values = engine.index.values_of(keys_of(blobs))
    engine.close()
    return sum(value is not None for value in values)


def index_file(path: Path) -> os.stat_result:
    return os.stat(path / "index" / "data.mdb")


def test_an_index_that_has_grown_is_copied_without_its_free_pages_by_who_opens_it_alone(tmp_path: Path) -> None:
    filled = filled_with_rows(tmp_path)
    before = index_file(tmp_path).st_blocks * 512
    engine = Engine.open(tmp_path, FakeClock(), settings(filled.max_bytes), may_shrink_index=True)
    size = engine.room.index_size()
    assert size.file_bytes < before
    assert size.free_bytes < size.file_bytes / 10
    newer = blobs_of(500, 10)
    write(engine, newer)
    assert disk_bytes(tmp_path) <= filled.max_bytes
    engine.close()
    assert os.listdir(tmp_path / "index").count("data.mdb.copy") == 0
    assert kept_of(tmp_path, filled.last) == len(filled.last)
    assert kept_of(tmp_path, newer) == len(newer)


def test_where_a_lower_bound_has_no_room_for_so_many_rows_the_oldest_blobs_go(tmp_path: Path) -> None:
    filled = filled_with_rows(tmp_path)
    engine = Engine.open(tmp_path, FakeClock(), settings(filled.too_few_bytes), may_shrink_index=True)
    assert engine.room.index_size().needed_bytes() <= engine.room.size.max_index_bytes
    assert engine.stats.evicted_blobs > 0
    newer = blobs_of(500, 10)
    write(engine, newer)
    assert disk_bytes(tmp_path) <= filled.too_few_bytes
    engine.close()
    assert kept_of(tmp_path, newer) == len(newer)


def test_what_outlives_its_segment_before_the_index_is_copied_can_go_later(tmp_path: Path) -> None:
    clock = FakeClock()
    engine = Engine.open(tmp_path, clock, settings(64 * MB))
    batches = [blobs_of(1_000, 10 + number % 2 * 50) for number in range(12)]
    for batch in batches:
        write(engine, batch)
    max_bytes = 5 * engine.room.index_size().used_bytes
    engine.writer.close()
    clock.advance(2_000)
    engine.writer.touch(list(map(key_of, batches[0])))
    engine.close()
    before = open_files(tmp_path)
    engine = Engine.open(tmp_path, clock, settings(max_bytes), may_shrink_index=True)
    assert engine.stats.copied_blobs > 0
    with engine.index.reading() as txn:
        assert not [state for state in engine.index.segments.states(txn).values() if state.is_open]
    engine.close()
    assert open_files(tmp_path) == before == []


def open_files(path: Path) -> list[str]:
    """Return what this process has open below *path*."""
    descriptors = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    names = [os.readlink(one) for one in descriptors if one.is_symlink()]
    return [name for name in names if Path(name).is_relative_to(path)]


def test_an_index_that_others_have_open_is_left_as_it_is(tmp_path: Path) -> None:
    max_bytes = filled_with_rows(tmp_path).max_bytes
    before = index_file(tmp_path).st_ino
    script = f"""
import sys
from pathlib import Path
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.index import Index
index = Index.open(Path({str(tmp_path / "index")!r}), SystemDisk())
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        Engine.open(tmp_path, FakeClock(), settings(max_bytes), may_shrink_index=True).close()
        assert index_file(tmp_path).st_ino == before
        assert other.stdin is not None
        other.stdin.close()
    Engine.open(tmp_path, FakeClock(), settings(max_bytes), may_shrink_index=True).close()
    assert index_file(tmp_path).st_ino != before


def test_an_index_that_leaves_no_room_is_named(tmp_path: Path) -> None:
    filled = filled_with_rows(tmp_path)
    engine = Engine.open(tmp_path, FakeClock(), settings(filled.too_few_bytes))  # as if others had it open
    engine.room.wait_seconds = 0.05
    with pytest.raises(ResourceExhausted, match=r"the index of the store takes .* restart"):
        write(engine, blobs_of(1_000, 10))
    engine.close()


def test_an_index_is_not_copied_where_nothing_may_go_to_make_room_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = filled_with_rows(tmp_path)
    engine = Engine.open(tmp_path, FakeClock(), settings(64 * MB))
    while disk_bytes(tmp_path) < filled.max_bytes - filled.max_bytes // 18:
        write(engine, blobs_of(20, 20_000))
    engine.close()
    most = 0

    def look(index: Index, disk: Disk) -> None:
        nonlocal most
        write_compact_copy(index, disk)
        most = disk_bytes(tmp_path)

    monkeypatch.setattr("gridwright_cas.stores.segments.engine.write_compact_copy", look)
    for strict in (True, False):
        one = settings(filled.max_bytes)._replace(strict_retention=strict)
        engine = Engine.open(tmp_path, FakeClock(), one, may_shrink_index=True)
        assert (engine.stats.evicted_blobs == 0) == (most == 0) == strict
        assert max(most, disk_bytes(tmp_path)) <= filled.max_bytes
        engine.close()


@pytest.mark.parametrize("survival", Survival)
@pytest.mark.parametrize("undo", [False, True])
def test_the_power_may_be_cut_at_each_step_of_the_copying(tmp_path: Path, survival: Survival, undo: bool) -> None:
    (root := tmp_path / "disk").mkdir()
    disk = VolatileDisk(root)
    filled = filled_with_rows(root / "store", disk, batch=500)
    images: list[Path] = []

    def before_change(operation: str, path: str) -> None:
        images.append(tmp_path / str(len(images)))
        disk.cut_power(images[-1], Cut(survival, undo, len(images)))

    disk.before_change = before_change
    inode = index_file(root / "store").st_ino
    engine = Engine.open(root / "store", FakeClock(), settings(filled.max_bytes), disk, may_shrink_index=True)
    newer = blobs_of(10, 20)
    write(engine, newer)
    disk.before_change = lambda operation, path: None
    disk.cut_power(last := tmp_path / "last", Cut(survival, undo))
    engine.close()
    assert index_file(root / "store").st_ino != inode
    assert len(images) > 10
    for image in images:
        assert kept_of(image / "store", filled.last, VolatileDisk(image)) == len(filled.last)
    assert kept_of(last / "store", newer, VolatileDisk(last)) == len(newer)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_an_index_that_cannot_be_copied_serves_as_it_is(tmp_path: Path, fault: int, operation: str) -> None:
    filled = filled_with_rows(tmp_path / "store")
    inode = index_file(tmp_path / "store").st_ino
    disk = FailingDisk(VolatileDisk(tmp_path))
    engine = Engine.open(tmp_path / "store", FakeClock(), settings(filled.max_bytes), disk)
    disk.fail(fault, frozenset({operation}))
    same = engine._with_small_index()
    disk.heal()
    assert same is engine
    assert disk.failed == 1
    engine.close()
    assert index_file(tmp_path / "store").st_ino == inode
    assert not (tmp_path / "store" / "index" / "data.mdb.copy").exists()
    assert kept_of(tmp_path / "store", filled.last) == len(filled.last)
