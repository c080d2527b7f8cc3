"""The model of a power cut is as harsh as a disk may be, and no harsher."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
import pytest

from tests.cas.segments.lmdb_power_cut import DATA_FILE, without_last_commit
from tests.cas.segments.power_cut import Cut, Directory, File, Survival, Truncation, Write
from tests.cas.segments.volatile_disk import VolatileDisk

NOTHING = Cut(Survival.NOTHING)
EVERYTHING = Cut(Survival.EVERYTHING)


def test_only_what_was_synchronised_is_sure_to_be_there() -> None:
    file = File(b"old")
    file.change(Write(3, b"er"))
    file.sync()
    file.change(Write(0, b"XXXXXXXX"))
    assert file.after(NOTHING) == b"older"
    assert file.after(EVERYTHING) == b"XXXXXXXX"


def test_a_write_may_come_out_in_part_or_as_zeros_or_without_its_beginning() -> None:
    file = File()
    file.change(Write(0, b"abcdef"))
    after = {file.after(Cut(Survival.TORN, seed=seed)) for seed in range(300)}
    assert {b"", b"abcdef", b"abc", bytes(6), b"\0\0\0def"} <= after


def test_a_sector_may_be_missing_in_the_middle() -> None:
    file = File()
    file.change(Write(0, b"x" * 1_536))
    assert b"x" * 512 + bytes(512) + b"x" * 512 in {file.after(Cut(Survival.TORN, seed=seed)) for seed in range(300)}


def test_a_later_write_may_come_out_without_an_earlier_one() -> None:
    file = File()
    file.change(Write(0, b"ab"))
    file.change(Write(2, b"cd"))
    assert b"\0\0cd" in {file.after(Cut(Survival.TORN, seed=seed)) for seed in range(100)}


def test_a_sync_after_one_that_failed_does_not_bring_out_what_that_one_lost() -> None:
    file = File(b"good")
    file.change(Write(4, b"lost"))
    file.fail_sync()
    file.change(Write(8, b"new"))
    file.sync()
    assert file.after(NOTHING) == b"good\0\0\0\0new"
    file.change(Write(4, b"over"))
    file.sync()
    assert file.after(EVERYTHING) == b"goodovernew"


def test_a_size_is_a_change_as_well() -> None:
    file = File(b"long text")
    file.change(Truncation(4))
    assert (file.after(NOTHING), file.after(EVERYTHING)) == (b"long text", b"long")


def test_names_come_out_in_their_order_and_a_rename_as_one() -> None:
    directory, file = Directory(), File()
    directory.change({"tmp": file})
    directory.change({"tmp": None, "final": file})
    found = {tuple(directory.after(Cut(Survival.TORN, seed=seed))) for seed in range(50)}
    assert found == {(), ("tmp",), ("final",)}
    directory.sync()
    assert directory.after(NOTHING) == {"final": file}


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_without_a_durable_name_is_gone(tmp_path: Path, synced: bool) -> None:
    (tmp_path / "before").mkdir()
    disk = VolatileDisk(tmp_path / "before")
    path = str(tmp_path / "before" / "file")
    fd = disk.open(path, os.O_RDWR | os.O_CREAT)
    disk.write(fd, [b"some ", b"bytes"], 0)
    disk.sync(fd)
    disk.write(fd, [b"never synchronised"], 0)
    disk.close(fd)
    if synced:
        disk.sync_directory(str(tmp_path / "before"))
    disk.cut_power(tmp_path / "after", NOTHING)
    after = {file.name: file.read_bytes() for file in (tmp_path / "after").iterdir()}
    assert after == ({"file": b"some bytes"} if synced else {})


def test_the_last_transaction_of_lmdb_is_undone_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with lmdb.open(str(tmp_path / "before"), metasync=False) as environment:
        for number in range(20):
            _commit(environment, number)
            data = without_last_commit((tmp_path / "before" / DATA_FILE).read_bytes())
            (tmp_path / f"{number}").mkdir()
            (tmp_path / f"{number}" / DATA_FILE).write_bytes(data)
            with lmdb.open(str(tmp_path / f"{number}"), metasync=False) as undone:
                assert _committed(undone) == (number - 1 if number else None)
                for other in range(1_000, 1_004):
                    _commit(undone, other)
                    assert _committed(undone) == other


def _commit(environment: lmdb.Environment, number: int) -> None:
    with environment.begin(write=True) as transaction:
        transaction.put(b"number", b"%d" % number)
        for name in (b"a", b"b", b"c"):
            transaction.put(name, os.urandom(5_000) + b"%d" % number)


def _committed(environment: lmdb.Environment) -> int | None:
    with environment.begin() as transaction:
        number = transaction.get(b"number")
        if number is None:
            return None
        for name in (b"a", b"b", b"c"):
            assert bytes(transaction.get(name, b"")).endswith(number)
        return int(number)
