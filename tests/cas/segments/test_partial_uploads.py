"""Uploads that broke off: taken up where they were, never believed, and bounded."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import DigestFunction
from gridwright.errors import Aborted, DigestMismatch, ResourceExhausted
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.direct_io import LARGE_BYTES
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.large_files import KeptFile
from gridwright_cas.stores.segments.partial_uploads import PartialName, PartialUpload
from tests.cas.segments.house import MIB, SHA256, House


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def house(tmp_path: Path, clock: FakeClock) -> Iterator[House]:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=256 * MIB))
    yield house
    house.close()


def name_of(data: bytes, *, uuid: str = "one", compressor: str = "") -> PartialName:
    return PartialName(uuid, SHA256.digest(data), compressor)


def finish(upload: PartialUpload) -> KeptFile:
    try:
        return upload.finish()
    finally:
        upload.close()


def read(house: House, name: PartialName, kept: KeptFile) -> bytes:
    file = house.large.open(kept.file_id, name.digest)
    try:
        return b"".join(file.blocks())
    finally:
        file.close()


def write(house: House, name: PartialName, *pieces: bytes) -> None:
    """Append to an upload, and leave it."""
    upload = house.partials.open(name)
    try:
        upload.write(pieces)
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
    upload.write([data[upload.committed_bytes :]])
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
    upload.write([data[:MIB]])
    assert house.partials.committed_bytes(name) == MIB
    with pytest.raises(Aborted):
        house.partials.open(name)
    upload.close()


def test_uploads_of_one_blob_by_two_clients_are_two(house: House) -> None:
    data = os.urandom(MIB)
    names = [name_of(data), name_of(data, uuid="two"), name_of(data, compressor="zstd")]
    names.append(PartialName("one", DigestFunction.BLAKE3.digest(data)))
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
    upload.write([b"wrong"])
    with pytest.raises(DigestMismatch):
        finish(upload)
    assert house.partials.committed_bytes(name) is None
    assert house.large.file_ids() == set()


def test_too_few_bytes_are_refused(house: House) -> None:
    upload = house.partials.open(name_of(b"right"))
    upload.write([b"rig"])
    with pytest.raises(DigestMismatch):
        finish(upload)


def test_when_our_copy_has_rotted_the_client_is_asked_to_begin_again(house: House) -> None:
    data = os.urandom(2 * MIB)
    name = name_of(data)
    write(house, name, data[:MIB])
    with open(house.partials.path_of(name.file_name), "r+b") as file:
        file.write(b"?")
    upload = house.partials.open(name)
    upload.write([data[MIB:]])
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


def test_what_is_compressed_can_be_read_back_and_is_then_dropped(house: House) -> None:
    packed = os.urandom(2 * MIB + 5)
    name = name_of(b"what it unpacks to", compressor="zstd")
    write(house, name, packed[:MIB])
    upload = house.partials.open(name)
    upload.write([packed[MIB:]])
    assert b"".join(upload.read_back()) == packed
    with pytest.raises(ValueError, match="unpacked"):
        upload.finish()
    upload.discard()
    upload.close()
    assert house.partials.committed_bytes(name) is None


def test_an_upload_outlives_its_process(house: House) -> None:
    data = bytes(range(256)) * 4096 * 3
    name = name_of(data)
    script = f"""
import os
from pathlib import Path
from gridwright.testing.clock import FakeClock
from tests.cas.segments.house import MIB, House
from tests.cas.segments.test_partial_uploads import EvictionPolicy, name_of
house = House(Path({str(house.root)!r}), FakeClock(), policy=EvictionPolicy(max_bytes=256 * MIB))
data = bytes(range(256)) * 4096 * 3
house.partials.open(name_of(data)).write([data[:2 * MIB]])
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert house.partials.committed_bytes(name) == 2 * MIB
    upload = house.partials.open(name)
    upload.write([data[upload.committed_bytes :]])
    kept = finish(upload)
    assert hashlib.sha256(read(house, name, kept)).hexdigest() == name.digest.hash


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
    running.close()
    with house.index.reading() as txn:
        assert len(list(house.room.charges(txn, b"P"))) == 2


def test_the_number_of_uploads_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_cas.stores.segments.partial_uploads._MAX_COUNT", 3)
    for number in range(3):
        write(house, name_of(b"blob", uuid=str(number)), b"bl")
    with pytest.raises(ResourceExhausted):
        house.partials.open(name_of(b"blob", uuid="one more"))
    write(house, name_of(b"blob", uuid="2"), b"o")
    assert house.partials.committed_bytes(name_of(b"blob", uuid="2")) == 3


def test_the_bytes_of_uploads_are_bounded_and_what_came_before_stays(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=16 * MIB))
    name = name_of(bytes(8 * MIB))
    upload = house.partials.open(name)
    upload.write([bytes(2 * MIB)])
    with pytest.raises(ResourceExhausted):
        upload.write([bytes(3 * MIB)])
    upload.close()
    assert house.partials.committed_bytes(name) == 2 * MIB
    assert house.disk_bytes() < 5 * MIB
    house.close()


def test_files_that_no_table_knows_go(house: House) -> None:
    name = name_of(b"blob")
    write(house, name, b"bl")
    (house.root / "partial" / "stray").write_bytes(b"stray")
    house.partials.remove_strays()
    assert os.listdir(house.partials.path) == [name.file_name]
    assert house.partials.committed_bytes(name) == 2
