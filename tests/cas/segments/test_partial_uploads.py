"""Uploads that broke off: taken up where they were, never believed, and bounded."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.resumable import UploadName
from gridwright.digest import DigestFunction
from gridwright.errors import Aborted, DigestMismatch, InvalidRequest, ResourceExhausted, Unavailable
from gridwright.file_lock import try_lock_named
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.direct_io import LARGE_BYTES
from gridwright_cas.stores.segments import partial_uploads
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.large_files import KeptFile
from gridwright_cas.stores.segments.partial_upload import PartialUpload
from tests.cas.segments.failing_disk import FailingDisk
from tests.cas.segments.house import MIB, SHA256, House
from tests.cas.segments.volatile_disk import VolatileDisk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def house(tmp_path: Path, clock: FakeClock) -> Iterator[House]:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=256 * MIB))
    yield house
    house.close()


def name_of(data: bytes, *, uuid: str = "one", compressor: str = "") -> UploadName:
    return UploadName(uuid, SHA256.digest(data), compressor)


def finish(upload: PartialUpload) -> KeptFile:
    try:
        return upload.finish()
    finally:
        upload.close()


def read(house: House, name: UploadName, kept: KeptFile) -> bytes:
    file = house.large.open(kept.file_id, name.digest)
    try:
        return b"".join(file.blocks())
    finally:
        file.close()


def append(upload: PartialUpload, *pieces: bytes) -> None:
    upload.hash(pieces)
    upload.write(pieces)


def write(house: House, name: UploadName, *pieces: bytes) -> None:
    """Append to an upload, and leave it."""
    upload = house.partials.open(name)
    try:
        append(upload, *pieces)
    finally:
        upload.close()


@pytest.mark.parametrize("size", [1, 5000, 3 * MIB + 17, LARGE_BYTES + MIB + 3])
def test_an_upload_is_taken_up_where_it_was(house: House, size: int) -> None:
    data = os.urandom(size)
    name = name_of(data)
    assert house.partials.committed_bytes(name) is None
    for start, end in ((0, size // 3), (size // 3, size // 2)):
        write(house, name, data[start : start + 10], data[start + 10 : end])
        assert house.partials.committed_bytes(name) == end or end < 10
    upload = house.partials.open(name)
    assert upload.committed_bytes == house.partials.committed_bytes(name)
    append(upload, data[upload.committed_bytes :])
    kept = finish(upload)
    assert read(house, name, kept) == data
    assert house.partials.committed_bytes(name) is None
    with house.index.reading() as txn:
        assert house.room.used_by(txn, b"P") == 0
        assert house.room.used_by(txn, b"L") == kept.cost_bytes == file_bytes(size)
    assert [path.name for path in (house.root / "locks").glob("partial-*")] == []


def test_what_has_come_can_be_asked_for_while_more_comes(house: House) -> None:
    data = os.urandom(2 * MIB)
    name = name_of(data)
    upload = house.partials.open(name)
    append(upload, data[:MIB])
    assert house.partials.committed_bytes(name) == MIB
    with pytest.raises(Aborted):
        house.partials.open(name)
    upload.close()


def test_uploads_of_one_blob_by_two_clients_are_two(house: House) -> None:
    data = os.urandom(MIB)
    names = [name_of(data), name_of(data, uuid="two"), name_of(data, compressor="zstd")]
    names.append(UploadName("one", DigestFunction.BLAKE3.digest(data)))
    for number, name in enumerate(names, 1):
        write(house, name, bytes(number))
    assert [house.partials.committed_bytes(name) for name in names] == [1, 2, 3, 4]
    assert len({name.file_name for name in names}) == 4


def test_a_uuid_is_no_path(house: House) -> None:
    write(house, name_of(b"blob", uuid="../../../etc/passwd\0\n" * 100), b"bl")
    assert len(os.listdir(house.partials.path)) == 1


def test_wrong_bytes_are_refused_and_gone(house: House) -> None:
    name = name_of(b"right")
    upload = house.partials.open(name)
    append(upload, b"wrong")
    with pytest.raises(DigestMismatch):
        finish(upload)
    assert house.partials.committed_bytes(name) is None
    assert house.large.file_ids() == set()


def test_too_few_bytes_are_refused(house: House) -> None:
    upload = house.partials.open(name_of(b"right"))
    append(upload, b"rig")
    with pytest.raises(DigestMismatch):
        finish(upload)


def test_when_our_copy_has_rotted_the_client_is_asked_to_begin_again(house: House) -> None:
    data = os.urandom(2 * MIB)
    name = name_of(data)
    write(house, name, data[:MIB])
    with open(house.partials.path_of(name.file_name), "r+b") as file:
        file.write(b"?")
    upload = house.partials.open(name)
    append(upload, data[MIB:])
    with pytest.raises(Aborted):
        finish(upload)
    assert house.partials.committed_bytes(name) is None


def test_a_crash_while_an_upload_is_finished_leaves_one_that_can_be_finished(house: House) -> None:
    data = os.urandom(2 * MIB + 5)
    name = name_of(data)
    write(house, name, data)
    with open(house.partials.path_of(name.file_name), "ab") as file:
        file.write(b"half a table")
    assert house.partials.committed_bytes(name) == len(data)
    upload = house.partials.open(name)
    assert upload.committed_bytes == len(data)
    assert read(house, name, finish(upload)) == data


def test_a_small_blob_is_handed_out_and_is_then_dropped(house: House) -> None:
    data = os.urandom(5000)
    name = name_of(data)
    write(house, name, data[:1000])
    upload = house.partials.open(name)
    append(upload, data[1000:])
    assert upload.whole() == data
    upload.discard()
    upload.close()
    assert house.partials.committed_bytes(name) is None
    assert house.large.file_ids() == set()


@pytest.mark.parametrize("size", [5000, LARGE_BYTES + MIB + 3])
def test_an_upload_that_rests_holds_no_file_and_goes_on(house: House, size: int) -> None:
    data = os.urandom(size)
    name = name_of(data)
    upload = house.partials.open(name)
    before = len(os.listdir("/proc/self/fd"))
    append(upload, data[: size // 2])
    upload.rest()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert house.partials.committed_bytes(name) == size // 2
    upload.rest()
    append(upload, data[size // 2 :])
    upload.rest()
    assert read(house, name, finish(upload)) == data


def test_an_upload_can_begin_anew(house: House) -> None:
    data = os.urandom(3 * MIB)
    name = name_of(data)
    write(house, name, os.urandom(2 * MIB))
    upload = house.partials.open(name, 0)
    assert upload.committed_bytes == house.partials.committed_bytes(name) == 0
    append(upload, data)
    assert read(house, name, finish(upload)) == data


def test_an_upload_goes_on_at_any_offset_of_what_has_come(house: House) -> None:
    data = os.urandom(3 * MIB)
    name = name_of(data)
    write(house, name, data[:MIB])
    with pytest.raises(InvalidRequest, match=str(MIB)):
        house.partials.open(name, MIB + 1)
    upload = house.partials.open(name, 5000)
    assert upload.committed_bytes == house.partials.committed_bytes(name) == 5000
    append(upload, data[5000:])
    assert read(house, name, finish(upload)) == data


def test_an_upload_is_forgotten_unless_somebody_is_at_it(house: House) -> None:
    name = name_of(bytes(3 * MIB))
    upload = house.partials.open(name)
    append(upload, bytes(MIB))
    house.partials.forget(name)
    assert house.partials.committed_bytes(name) == MIB
    upload.close()
    house.partials.forget(name)
    assert house.partials.committed_bytes(name) is None
    with house.index.reading() as txn:
        assert house.room.used_by(txn, b"P") == 0


def test_an_upload_outlives_its_process(house: House) -> None:
    data = bytes(range(256)) * 4096 * 3
    name = name_of(data)
    script = f"""
import os
from pathlib import Path
from gridwright.testing.clock import FakeClock
from tests.cas.segments.house import MIB, House
from tests.cas.segments.test_partial_uploads import EvictionPolicy, append, name_of
house = House(Path({str(house.root)!r}), FakeClock(), policy=EvictionPolicy(max_bytes=256 * MIB))
data = bytes(range(256)) * 4096 * 3
append(house.partials.open(name_of(data)), data[:2 * MIB])
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert house.partials.committed_bytes(name) == 2 * MIB
    upload = house.partials.open(name)
    append(upload, data[upload.committed_bytes :])
    kept = finish(upload)
    assert hashlib.sha256(read(house, name, kept)).hexdigest() == name.digest.hash


class NearlyFullDisk(SystemDisk):
    """A disk that has room for what is asked when the files in a directory are few."""

    def __init__(self, max_files: int) -> None:
        self._max_files = max_files

    def free_bytes(self, path: str) -> float:
        return 0 if len(os.listdir(path)) > self._max_files else math.inf


def test_while_the_disk_is_nearly_full_uploads_that_were_left_go_oldest_first(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, disk=NearlyFullDisk(max_files=2))
    names = [name_of(bytes(MIB), uuid=uuid) for uuid in ("first", "second", "third", "busy")]
    running = house.partials.open(names[-1])
    append(running, bytes(1000))
    for name in names[:-1]:
        clock.advance(1)
        write(house, name, bytes(1000))
    clock.advance(60)
    assert house.partials.relieve() == 2
    assert [house.partials.committed_bytes(name) is not None for name in names] == [False, False, True, True]
    assert house.partials.relieve() == 0
    running.close()
    house.close()


def test_on_a_full_disk_an_upload_that_has_just_broken_off_waits_for_its_client(
    tmp_path: Path, clock: FakeClock
) -> None:
    house = House(tmp_path / "store", clock, disk=NearlyFullDisk(max_files=0))
    name = name_of(bytes(MIB))
    write(house, name, bytes(1000))
    assert house.partials.relieve() == 0
    upload = house.partials.open(name, house.partials.committed_bytes(name))
    assert upload.committed_bytes == 1000
    upload.close()
    clock.advance(60)
    assert house.partials.relieve() == 1
    house.close()


def test_an_upload_that_somebody_is_at_stays_however_full_the_disk_is(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, disk=NearlyFullDisk(max_files=0))
    name = name_of(bytes(MIB))
    running = house.partials.open(name)
    append(running, bytes(1000))
    assert house.partials.relieve() == 0
    running.close()
    assert house.partials.committed_bytes(name) == 1000
    house.close()


def test_each_upload_is_tried_once_however_many_are_busy_on_a_full_disk(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path / "store", clock, disk=NearlyFullDisk(max_files=0))
    names = [name_of(bytes(MIB), uuid=str(number)) for number in range(20)]
    running = [house.partials.open(name) for name in names[:10]]
    for name in names[10:]:
        write(house, name, bytes(1000))
    clock.advance(60)
    tried: list[Path] = []

    def noting(path: Path) -> int | None:
        tried.append(path)
        return try_lock_named(path)

    monkeypatch.setattr(partial_uploads, "try_lock_named", noting)
    assert house.partials.relieve() == 10
    assert len(tried) == len(names)
    for upload in running:
        upload.close()
    house.close()


def test_the_disk_of_this_machine_says_how_much_room_it_has(tmp_path: Path) -> None:
    assert 0 <= SystemDisk().free_bytes(str(tmp_path)) < math.inf


def test_a_file_system_that_does_not_say_how_large_it_is_is_not_taken_for_a_full_one() -> None:
    assert os.statvfs("/proc").f_blocks == 0
    assert SystemDisk().free_bytes("/proc") == math.inf


def test_an_upload_that_nobody_touches_for_an_hour_goes(house: House, clock: FakeClock) -> None:
    old, renewed, busy = (name_of(bytes(MIB), uuid=uuid) for uuid in ("old", "renewed", "busy"))
    for name in (old, renewed):
        write(house, name, bytes(1000))
    running = house.partials.open(busy)
    clock.advance(1801)
    write(house, renewed, bytes(1000))
    clock.advance(1800)
    assert house.partials.expire() == 1
    assert [house.partials.committed_bytes(name) for name in (old, renewed, busy)] == [None, 2000, 0]
    running.close()  # nothing came, so there is nothing to be taken up
    with house.index.reading() as txn:
        assert len(list(house.room.charges(txn, b"P"))) == 1


def test_the_oldest_upload_makes_place_for_a_new_one(
    house: House, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_cas.stores.segments.partial_uploads._MAX_COUNT", 3)
    names = [name_of(b"blob", uuid=str(number)) for number in range(5)]
    for name in names[:3]:
        write(house, name, b"bl")
        clock.advance(1)
    write(house, names[0], b"o")
    write(house, names[3], b"bl")
    assert [house.partials.committed_bytes(name) for name in names[:4]] == [3, None, 2, 2]
    busy = [house.partials.open(name) for name in (names[0], *names[2:4])]
    with pytest.raises(ResourceExhausted):
        house.partials.open(names[4])
    for upload in busy:
        upload.close()


def test_the_bytes_of_uploads_that_were_left_are_bounded(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=16 * MIB))
    names = [name_of(bytes(8 * MIB), uuid=str(number)) for number in range(4)]
    for name in names[:3]:
        write(house, name, bytes(MIB))
        clock.advance(1)
    # One that somebody is at may be larger than all of them might be, and then pushes out itself.
    upload = house.partials.open(names[3])
    append(upload, bytes(MIB))
    assert [house.partials.committed_bytes(name) for name in names] == [None, None, MIB, MIB]
    append(upload, bytes(5 * MIB))
    assert house.partials.committed_bytes(names[2]) is None
    upload.close()
    assert house.partials.committed_bytes(names[3]) is None
    assert house.disk_bytes() < MIB
    house.close()


def test_where_the_store_is_full_what_came_before_stays(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=16 * MIB))
    name = name_of(bytes(64 * MIB))
    upload = house.partials.open(name)
    append(upload, bytes(2 * MIB))
    with pytest.raises(ResourceExhausted):
        append(upload, bytes(32 * MIB))
    upload.close()
    assert house.partials.committed_bytes(name) == 2 * MIB
    house.close()


def test_files_that_no_table_knows_go(house: House) -> None:
    name = name_of(b"blob")
    write(house, name, b"bl")
    (house.root / "partial" / "stray").write_bytes(b"stray")
    house.partials.remove_strays()
    assert os.listdir(house.partials.path) == [name.file_name]
    assert house.partials.committed_bytes(name) == 2


def test_an_upload_that_begins_meanwhile_is_no_stray(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    name, list_directory = name_of(b"blob"), house.disk.list_directory

    def list_what_came(path: str) -> list[str]:
        write(house, name, b"bl")
        return list_directory(path)

    monkeypatch.setattr(house.disk, "list_directory", list_what_came)
    house.partials.remove_strays()
    assert house.partials.committed_bytes(name) == 2


def test_uploads_that_nobody_has_begun_leave_no_lock_behind(house: House) -> None:
    for number in range(3):
        with pytest.raises(InvalidRequest):
            house.partials.open(name_of(b"blob", uuid=str(number)), 3)
    assert list((house.root / "locks").glob("partial-*")) == []


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_who_has_left_an_upload_has_no_more_to_do_with_it(house: House, size: int) -> None:
    """A cancelled call leaves its upload while a thread may be about to finish it."""
    data = os.urandom(size)
    name = name_of(data)
    gone = house.partials.open(name)
    append(gone, data)
    gone.close()
    upload = house.partials.open(name)
    for work in (gone.finish, gone.whole):
        with pytest.raises(Aborted):
            work()
    gone.discard()
    assert house.partials.committed_bytes(name) == size
    assert read(house, name, finish(upload)) == data


def test_a_large_file_that_was_given_up_is_not_written_to(house: House, tmp_path: Path) -> None:
    upload = house.large.begin(SHA256.digest(data := os.urandom(MIB)))
    upload.write([data])
    upload.close()
    with (tmp_path / "other").open("wb+") as other:  # has the number that the upload's file had
        with pytest.raises(Aborted):
            upload.finish()
        assert os.fstat(other.fileno()).st_size == 0
    assert house.large.file_ids() == set()


def test_an_upload_that_cannot_be_named_leaves_nothing(tmp_path: Path, clock: FakeClock) -> None:
    disk = FailingDisk(VolatileDisk(tmp_path))
    house = House(tmp_path / "store", clock, disk=disk)
    house.large.durable = True
    data = os.urandom(MIB)
    used = house.room.used_bytes
    upload = house.partials.open(name_of(data))
    append(upload, data)
    disk.fail(errno.EIO, frozenset({"sync_directory"}), times=1)
    with pytest.raises(Unavailable):
        finish(upload)
    assert disk.failed == 1
    assert os.listdir(house.large.path) == os.listdir(house.partials.path) == []
    with house.index.reading() as txn:
        assert house.room.used_by(txn, b"L") == house.room.used_by(txn, b"P") == 0
    assert house.room.used_bytes <= used + 256 * 1024
    house.close()
