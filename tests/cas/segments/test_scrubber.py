"""What has rotted is found, put aside, and answered as missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.digest import Digest
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.key import digest_of, key_of
from gridwright_cas.stores.segments.row import Row
from tests.cas.segments.house import MIB, SHA256, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "store", FakeClock())
    yield house
    house.close()


def row_of(house: House, digest: Digest) -> Row:
    row = house.index.row_of(key_of(digest))
    assert row is not None
    return row


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


def quarantined(house: House) -> list[str]:
    return sorted(os.listdir(house.quarantine.path))


def test_a_sound_store_is_read_whole_and_left_as_it_is(house: House) -> None:
    digests = [*house.put_random(300, 4000), house.put_large(os.urandom(2 * MIB))]
    house.scrub()
    assert house.kept(digests) == set(digests)
    assert house.stats.scrubbed_bytes >= 300 * 4000 + 2 * MIB
    assert (house.stats.corrupt_blobs, quarantined(house)) == (0, [])


@pytest.mark.parametrize("place", [0, 3, 4, 8, 13, 16, 19, 20, 40, 60, 61, 500, 1060])
def test_a_flipped_bit_in_a_record_costs_that_blob_only(house: House, place: int) -> None:
    digests = house.put_random(20)
    house.seal()
    victim = digests[7]
    row = row_of(house, victim)
    flip(house.root / "segments" / str(row.segment), row.offset + place)
    house.removals.poll()
    house.scrub()
    assert house.kept(digests) == set(digests) - {victim}
    assert {digest_of(key) for key in house.removals.poll().keys} == {victim}
    assert house.stats.corrupt_blobs == 1
    assert quarantined(house) == [f"{int(house.clock.now()):011d}-{row.segment}-{row.offset}"]
    assert [(rot.digest, rot.file, rot.offset) for rot in house.rotten] == [
        (victim, str(house.root / "segments" / str(row.segment)), row.offset)
    ]
    assert house.rotten[0].kept_as == f"{house.quarantine.path}/{quarantined(house)[0]}"
    for digest in digests:
        if digest != victim:
            assert SHA256.digest(house.get(digest)) == digest


@pytest.mark.parametrize("place", [0, MIB - 1, MIB + 5000, 2 * MIB + 4095, -1, -100, -4096])
def test_a_flipped_bit_in_a_large_file_is_found(house: House, place: int) -> None:
    sound, victim = house.put_large(os.urandom(MIB)), house.put_large(os.urandom(2 * MIB + 3000))
    row = row_of(house, victim)
    path = Path(house.large.path_of(row.offset))
    flip(path, place % path.stat().st_size)
    house.scrub()
    assert house.kept([sound, victim]) == {sound}
    assert house.stats.corrupt_blobs == 1
    assert not path.exists()
    assert house.get(sound)


def test_segments_and_files_that_are_gone_or_cut_short_are_found(house: House) -> None:
    first = house.put_random(5)
    house.seal()
    second = house.put_random(5)
    house.seal()
    large, cut = house.put_large(os.urandom(MIB)), house.put_large(os.urandom(MIB))
    (house.root / "segments" / str(row_of(house, first[0]).segment)).unlink()
    os.truncate(house.root / "segments" / str(row_of(house, second[0]).segment), row_of(house, second[3]).offset + 10)
    Path(house.large.path_of(row_of(house, large).offset)).unlink()
    os.truncate(house.large.path_of(row_of(house, cut).offset), 5000)
    house.scrub()
    assert house.kept([*first, *second, large, cut]) == set(second[:3])


def test_what_rotted_can_be_uploaded_again(house: House) -> None:
    data = os.urandom(1000)
    digest = house.put(data)[0]
    flip(house.root / "segments" / str(row_of(house, digest).segment), row_of(house, digest).offset + 100)
    house.seal()
    house.scrub()
    assert house.put(data) == [digest]
    assert house.get(digest) == data


def test_a_restart_goes_on_where_the_scrubber_was(tmp_path: Path) -> None:
    clock = FakeClock()
    house = House(tmp_path / "store", clock)
    for _ in range(10):
        house.put_random(50, 4000)
    large = house.put_large(os.urandom(2 * MIB))
    while house.stats.scrubbed_bytes < MIB:
        house.scrubber.step()
    read_before = house.stats.scrubbed_bytes
    house.close()
    house = House(tmp_path / "store", clock)
    house.scrub()
    segment_bytes = house.room.size.segment_bytes
    assert house.stats.scrubbed_bytes <= 500 * 4100 + 2 * MIB - read_before + 2 * segment_bytes
    assert house.kept([large])
    house.scrub()
    assert house.stats.scrub_rounds == 2
    house.close()


def test_what_is_used_meanwhile_does_not_make_a_round_endless(house: House) -> None:
    digests = [house.put_large(os.urandom(MIB)) for _ in range(3)]
    for _ in range(1000):
        house.clock.advance(1)
        house.touch(*digests)
        house.scrubber.step()
        if house.stats.scrub_rounds == 2:
            return
    pytest.fail("no end")


def test_a_blob_that_was_evicted_meanwhile_is_no_finding(house: House) -> None:
    digests = house.put_random(100, 4000)
    house.seal()
    row = row_of(house, digests[0])
    house.scrubber.step()
    house.fill(1.5)
    assert house.quarantine.take(key_of(digests[0]), row) is False
    while house.stats.scrub_rounds == 0:
        house.scrubber.step()
    assert house.stats.corrupt_blobs == 0


def test_the_quarantine_is_bounded_and_inside_the_bound_of_the_store(house: House) -> None:
    digests = [house.put_large(os.urandom(MIB + MIB // 2)) for _ in range(2)]
    digests += house.put_random(200, 4000)
    for digest in digests:
        house.quarantine.take(key_of(digest), row_of(house, digest))
    assert house.kept(digests) == set()
    size = sum(path.stat().st_size for path in Path(house.quarantine.path).iterdir())
    assert 0 < size <= house.room.size.max_bytes // 64
    with house.index.reading() as txn:
        assert house.room.used_by(txn, b"Q") >= size
        assert house.room.used_by(txn, b"L") == 0
    assert house.large.file_ids() == set()


def test_the_oldest_bad_bytes_go_for_new_ones(house: House) -> None:
    digests = house.put_random(200, 4000)
    for digest in digests:
        house.clock.advance(1)
        house.quarantine.take(key_of(digest), row_of(house, digest))
    kept = {rot.kept_as for rot in house.rotten if rot.kept_as and Path(rot.kept_as).exists()}
    assert 0 < len(kept) < 200
    assert kept == {rot.kept_as for rot in house.rotten[-len(kept) :]}
    assert len(kept) == len(quarantined(house))


@pytest.mark.parametrize("seconds", [8 * 24 * 3600.0, -8 * 24 * 3600.0])
def test_bad_bytes_go_after_a_week_by_whatever_clock(house: House, seconds: float) -> None:
    digests = house.put_random(3)
    for digest in digests:
        house.quarantine.take(key_of(digest), row_of(house, digest))
    house.quarantine.expire()
    assert len(quarantined(house)) == 3
    if seconds > 0:
        house.clock.advance(seconds)
    else:
        house.clock.set_back(-seconds)
    house.quarantine.expire()
    assert quarantined(house) == []
    with house.index.reading() as txn:
        assert house.room.used_by(txn, b"Q") == 0


def test_bad_bytes_that_no_charge_is_known_of_go(house: House) -> None:
    digest = house.put_random(1)[0]
    house.quarantine.take(key_of(digest), row_of(house, digest))
    kept = quarantined(house)
    (Path(house.quarantine.path) / "stray").write_bytes(b"of an index that was lost")
    house.quarantine.remove_strays()
    assert quarantined(house) == kept
