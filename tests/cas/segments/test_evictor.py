"""Room is made from what was not used for longest, and ``du`` never says more than the bound."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest
from gridwright.errors import ResourceExhausted
from gridwright.file_lock import try_lock
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.eviction import Retention
from gridwright_cas.stores.segments.housekeeper import Chores, Housekeeper
from gridwright_cas.stores.segments.key import digest_of, key_of
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.recovery import Recovery
from gridwright_cas.stores.segments.remover import Tally
from gridwright_cas.stores.segments.room import large_holder, segment_holder
from tests.cas.segments.house import MIB, SHA256, House

HOUR = 3600.0
HALF = EvictionPolicy(max_bytes=16 * MIB)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def house(tmp_path: Path, clock: FakeClock) -> Iterator[House]:
    house = House(tmp_path / "store", clock)
    yield house
    house.close()


def test_five_times_the_capacity_goes_through_and_the_disk_never_has_more_than_it_may(house: House) -> None:
    written = []
    for number in range(40):
        written += house.fill(0.12)
        if number % 3 == 0:
            written.append(house.put_large(os.urandom(MIB + number)))
        assert house.disk_bytes() <= house.room.size.max_bytes
    assert house.disk_bytes() >= house.room.size.max_bytes * 0.7
    kept = house.kept(written)
    assert kept >= set(written[-len(written) // 8 :])
    assert not kept & set(written[: len(written) // 2])
    assert house.stats.evicted_blobs == len(written) - len(kept)
    for digest in list(kept)[::50]:
        assert SHA256.digest(house.get(digest)) == digest


def test_tiny_blobs_whose_index_is_as_large_as_themselves_stay_within_the_bound(house: House) -> None:
    for _ in range(120):
        house.put_random(1000, 60)
        assert house.disk_bytes() <= house.room.size.max_bytes
    assert house.stats.evicted_blobs > 0


def test_what_is_used_again_and_again_survives_while_older_blobs_exist(house: House) -> None:
    small = house.put_random(20)
    large = house.put_large(os.urandom(2 * MIB))
    for _ in range(25):
        house.fill(0.2)
        house.touch(*small, large)
    assert house.kept([*small, large]) == {*small, large}
    for digest in (*small, large):
        assert SHA256.digest(house.get(digest)) == digest
    assert house.stats.copied_blobs >= 20


def test_what_was_used_once_more_lives_about_once_more_as_long(house: House) -> None:
    blobs = house.put_random(20)
    house.fill(0.5)
    house.touch(*blobs)
    house.fill(1)
    assert house.kept(blobs) == set(blobs)
    house.fill(1.2)
    assert house.kept(blobs) == set()


def test_when_everything_is_in_use_uploads_find_room_all_the_same(house: House) -> None:
    written = house.fill(0.85)
    for _ in range(4):
        house.touch(*house.kept(written))
        written += house.fill(0.3)
    assert house.kept(written) >= set(written[-50:])
    assert house.disk_bytes() <= house.room.size.max_bytes


def test_what_was_found_just_now_stays_though_its_touch_is_not_written_yet(house: House) -> None:
    digest = house.put_random(1)[0]
    house.in_use.add(key_of(digest))
    house.fill(1.3)
    assert house.kept([digest]) == {digest}


def test_large_files_that_are_all_in_use_just_now_do_not_keep_the_evictor_from_finding_something(house: House) -> None:
    large = [house.put_large(os.urandom(2 * MIB)) for _ in range(4)]
    house.in_use.update(map(key_of, large))
    written = house.fill(2)
    assert house.kept([*large, *written[-50:]]) == {*large, *written[-50:]}
    house.clock.advance(1)
    for _ in range(6):
        house.in_use.add(key_of(house.put_large(os.urandom(2 * MIB))))
    assert house.disk_bytes() <= house.room.size.max_bytes


def test_large_files_go_in_the_order_of_their_last_use(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=32 * MIB))
    digests = []
    for _ in range(12):
        clock.advance(1)
        digests.append(house.put_large(os.urandom(2 * MIB)))
    clock.advance(1)
    house.touch(digests[0])
    for _ in range(5):
        clock.advance(1)
        digests.append(house.put_large(os.urandom(2 * MIB)))
    kept = house.kept(digests)
    assert digests[0] in kept
    assert digests[1] not in kept
    assert house.large.file_ids() == {row.offset for row in map(house.index.row_of, map(key_of, kept)) if row}
    house.close()


def test_what_is_written_after_the_clock_was_set_back_does_not_go_at_once(house: House, clock: FakeClock) -> None:
    house.fill(0.7)
    for _ in range(4):
        house.put_large(os.urandom(MIB))
    clock.set_back(30 * 24 * HOUR)
    for _ in range(6):
        written = [house.put_large(os.urandom(MIB)), *house.fill(0.2)]
        assert house.kept(written) == set(written)


def test_evict_bytes_makes_that_much_room_at_once(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=16 * MIB, evict_bytes=8 * MIB))
    most = least = 0
    for _ in range(40):
        house.fill(0.05)
        most = max(most, house.room.used_bytes)
        least = house.room.used_bytes if house.stats.evicted_blobs and not least else least
    assert most > 13.5 * MIB
    assert least < 9.5 * MIB
    house.close()


def test_what_was_not_used_for_max_seconds_goes(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=64 * MIB, max_seconds=HOUR))
    old = [*house.put_random(300, 4000), house.put_large(os.urandom(MIB))]
    used = [*house.put_random(3), house.put_large(os.urandom(MIB))]
    house.seal()
    clock.advance(HOUR / 2)
    house.evictor.run()
    house.touch(*used)
    new = house.put_random(10)
    clock.advance(HOUR / 2 + 1)
    house.evictor.run()
    assert house.kept([*old, *used, *new]) == {*used, *new}
    clock.advance(HOUR)
    house.evictor.run()  # the last segment is open still
    assert house.kept([*used, *new]) == set()
    house.close()


def test_no_more_than_max_count_stay(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, policy=EvictionPolicy(max_bytes=64 * MIB, max_count=100))
    written = []
    for _ in range(5):
        clock.advance(1)
        written += house.put_random(50, 4000)
        clock.advance(1)
        written.append(house.put_large(os.urandom(MIB)))
        house.evictor.run()
    kept = house.kept(written)
    assert len(kept) == 100
    assert kept >= set(written[-51:])
    house.close()


def test_going_below_the_retention_is_counted(house: House, clock: FakeClock) -> None:
    house.fill(2)
    assert house.stats.retention_violations == house.stats.evicted_blobs > 0
    assert house.stats.youngest_evicted_seconds is not None
    assert house.stats.youngest_evicted_seconds < HOUR
    clock.advance(4 * HOUR)
    before = house.stats.retention_violations
    house.fill(0.3)
    assert house.stats.retention_violations == before
    assert house.stats.youngest_evicted_seconds > 4 * HOUR


def test_strict_retention_refuses_uploads_and_says_when_to_come_again(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, retention=Retention(strict=True))
    with pytest.raises(ResourceExhausted) as refused:
        house.fill(2)
    assert refused.value.retry_after_seconds
    assert house.stats.evicted_blobs == 0
    with pytest.raises(ResourceExhausted):
        house.put_large(bytes(4 * MIB))
    assert house.stats.refused_uploads >= 2
    clock.advance(4 * HOUR)
    house.evictor.make_room()
    house.put_large(bytes(4 * MIB))
    assert house.stats.retention_violations == 0
    house.close()


@pytest.mark.parametrize("strict", [False, True])
def test_a_lower_bound_takes_the_oldest_and_not_what_was_used_lately(
    tmp_path: Path, clock: FakeClock, strict: bool
) -> None:
    used = fill_and_use(tmp_path / "store", clock, every=10)
    house = House(tmp_path / "store", clock, policy=HALF, retention=Retention(strict=strict))
    house.evictor.make_room()
    assert house.kept(used) == set(used)
    assert house.disk_bytes() <= HALF.max_bytes
    assert house.stats.retention_violations == 0
    house.close()


def test_strict_retention_refuses_uploads_where_there_is_no_room_to_copy_what_must_stay(
    tmp_path: Path, clock: FakeClock
) -> None:
    used = fill_and_use(tmp_path / "store", clock, every=1)
    house = House(tmp_path / "store", clock, policy=HALF, retention=Retention(strict=True))
    with pytest.raises(ResourceExhausted) as refused:
        house.put_large(bytes(4 * MIB))
    assert refused.value.retry_after_seconds
    assert house.kept(used) == set(used)
    clock.advance(4 * HOUR)
    house.put_large(bytes(4 * MIB))
    assert house.disk_bytes() <= HALF.max_bytes
    assert house.stats.retention_violations == 0
    house.close()


def test_who_waits_for_room_gets_it_from_the_housekeeper(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, wait_seconds=10, evicts=False)
    removed = threading.Event()
    keeper = housekeeper(house, removed)
    house.fill(0.9)
    keeper.start()
    house.room.take(b"Lxxxxxxxx", 10 * MIB)
    assert removed.wait(10)
    keeper.stop()
    assert house.stats.housekeeping_failures == 0
    house.close()


def test_only_one_process_keeps_house_and_the_next_takes_over(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock, wait_seconds=0.1, evicts=False)
    lock = try_lock(house.root / "locks" / "housekeeper")
    assert lock is not None
    keeper = housekeeper(house, threading.Event())
    house.fill(0.9)
    keeper.start()
    with pytest.raises(ResourceExhausted):
        house.room.take(b"Lxxxxxxxx", 10 * MIB)
    os.close(lock)
    for _ in range(100):
        try:
            house.room.take(b"Lxxxxxxxx", 10 * MIB)
            break
        except ResourceExhausted:
            continue
    else:
        pytest.fail("nobody took over")
    keeper.stop()
    house.close()


def test_removals_are_heard_of_once_in_every_process(house: House) -> None:
    digests = house.put_random(5)
    house.seal()
    rows = [(key_of(digest), house.index.row_of(key_of(digest))) for digest in digests]
    house.removals.poll()
    house.remover.remove([(key, row) for key, row in rows if row], Tally())
    assert {digest_of(key) for key in house.removals.poll().keys} == set(digests)
    assert house.removals.poll().keys == []
    house.evictor.make_room()
    segment = 1
    house.remover.drop_segment(segment, Tally())
    assert house.removals.poll().segments == [segment]


def test_the_list_of_removals_is_bounded_and_who_slept_through_some_is_counted(house: House, clock: FakeClock) -> None:
    for number in range(40):
        clock.advance(10)
        with house.index.writing() as txn:
            house.removals.append(txn, [key_of(SHA256.digest(bytes([number])))])
    removed = house.removals.poll()
    assert 6 <= len(removed.keys) <= 8
    assert house.stats.missed_removals == 1


def test_a_row_that_moved_or_came_again_is_not_removed_with_its_old_place(house: House) -> None:
    digest = house.put_random(1)[0]
    key = key_of(digest)
    row = house.index.row_of(key)
    assert row is not None
    house.seal()
    house.remover.drop_segment(row.segment, Tally(), keep_after_ms=-1)
    moved = house.index.row_of(key)
    assert moved is not None
    assert moved.segment != row.segment
    assert moved.touched_ms == row.touched_ms
    house.remover.remove([(key, row)], Tally())
    assert SHA256.digest(house.get(digest)) == digest


def test_what_was_doomed_before_a_crash_goes_after_it(tmp_path: Path, clock: FakeClock) -> None:
    house = House(tmp_path / "store", clock)
    digest = house.put_large(os.urandom(MIB))
    row = house.index.row_of(key_of(digest))
    assert row is not None
    path = Path(house.large.path_of(row.offset))
    path.rename(path.with_suffix(".away"))  # as if the crash had come before the unlink
    house.remover.finish_doomed = lambda: None  # type: ignore[method-assign]
    house.remover.drop_large([(key_of(digest), row)], Tally())
    path.with_suffix(".away").rename(path)
    house.close()
    house = House(tmp_path / "store", clock)
    assert house.room.is_taken(large_holder(row.offset))
    house.evictor.run()
    assert not path.exists()
    assert not house.room.is_taken(large_holder(row.offset))
    house.close()


def test_what_a_dead_process_had_begun_is_cleared_away(house: House, clock: FakeClock) -> None:
    script = f"""
import sys
from pathlib import Path
from gridwright.testing.clock import FakeClock
from tests.cas.segments.house import MIB, SHA256, House
house = House(Path({str(house.root)!r}), FakeClock())
upload = house.large.begin(SHA256.digest(bytes(4 * MIB)))
upload.write([bytes(3 * MIB)])
print("written", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    house.leftovers.clear_charges()
    clock.advance(100)
    house.leftovers.clear_charges()
    assert len(house.large.file_ids()) == 1, "its owner lives"
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    used = house.room.used_bytes
    house.leftovers.clear_charges()
    assert len(house.large.file_ids()) == 1, "a replay may be under way"
    clock.advance(61)
    house.leftovers.clear_charges()
    assert house.large.file_ids() == set()
    assert house.room.used_bytes < used - 3 * MIB


def test_a_large_file_waits_for_the_replay_that_may_say_it_is_a_blob(house: House, clock: FakeClock) -> None:
    script = f"""
import os
from pathlib import Path
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.record import LargeFileRef
from gridwright_cas.stores.segments.segment_writer import Writes
from tests.cas.segments.house import MIB, SHA256, House
house = House(Path({str(house.root)!r}), FakeClock())
digest = SHA256.digest(bytes(2 * MIB))
kept = house._upload(digest, bytes(2 * MIB))
house.writer.append(Writes(large=[(key_of(digest), LargeFileRef(kept.file_id, kept.stored_bytes))]))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    for _ in range(3):
        house.leftovers.clear_charges()
        clock.advance(61)
    Recovery(house.index, house.parts.segments, house.room, clock, durable=False).run()
    house.leftovers.clear_charges()
    assert house.get(SHA256.digest(bytes(2 * MIB))) == bytes(2 * MIB)


def test_files_that_a_power_cut_has_left_without_a_charge_go(house: House) -> None:
    small, large = house.put_random(3), house.put_large(os.urandom(MIB))
    (house.root / "large" / f"{77:016x}").write_bytes(b"stray")
    (house.root / "large" / f"{78:016x}.part").write_bytes(b"stray")
    (house.root / "segments" / "99").write_bytes(b"stray")
    house.leftovers.clear_strays()
    assert len(house.large.file_ids()) == 1
    assert os.listdir(house.root / "segments") == ["1"]
    assert house.kept([*small, large]) == {*small, large}
    assert house.get(large)


def test_a_segment_whose_file_is_gone_is_cleared_from_the_index(house: House) -> None:
    digests = house.put_random(5)
    house.seal()
    (house.root / "segments" / "1").unlink()
    house.remover.drop_segment(1, Tally())
    assert house.kept(digests) == set()
    assert not house.room.is_taken(segment_holder(1))


def test_an_index_that_was_lost_after_many_evictions_knows_all_large_blobs_again(
    tmp_path: Path, clock: FakeClock
) -> None:
    house = House(tmp_path / "store", clock)
    large = [house.put_large(os.urandom(MIB + number)) for number in range(3)]
    for _ in range(30):
        house.fill(0.1)
        house.touch(*large)
    assert house.stats.evicted_blobs > 3_000
    assert house.kept(large) == set(large)
    house.close()
    shutil.rmtree(tmp_path / "store" / "index")
    settings = SegmentSettings(EvictionPolicy(max_bytes=16 * MIB))
    engine = Engine.open(tmp_path / "store", clock, settings)
    rows = engine.index.values_of(map(key_of, large))
    engine.close()
    assert all(rows)


def test_the_records_of_large_files_alone_are_not_copied_again_and_again(house: House) -> None:
    large = [house.put_large(os.urandom(MIB)) for _ in range(8)]
    house.seal()
    house.fill(0.3)
    for _ in range(50):
        house.evictor.run()
    with house.index.reading() as txn:
        segments = len(house.index.segments.states(txn))
        last = max(house.index.segments.states(txn))
    assert house.kept(large)
    for _ in range(50):
        house.room.wanted.set()
    with house.index.reading() as txn:
        assert max(house.index.segments.states(txn)) == last
        assert len(house.index.segments.states(txn)) == segments


def test_the_account_agrees_with_the_files(house: House) -> None:
    house.fill(1.5)
    house.put_large(os.urandom(3 * MIB))
    house.seal()
    with house.index.reading() as txn:
        charged = sum(charge.size_bytes for sort in (b"S", b"L") for _, charge in house.room.charges(txn, sort))
        assert charged == house.room.used_by(txn, b"S") + house.room.used_by(txn, b"L")
    files = sum(path.stat().st_size for path in house.root.glob("[sl]*/*") if path.parent.name in ("segments", "large"))
    survivors = house.room.size.segment_bytes
    assert files <= charged <= files + survivors
    assert file_bytes(3 * MIB) <= charged


def fill_and_use(root: Path, clock: FakeClock, *, every: int) -> list[Digest]:
    """Fill a store of twice ``HALF`` by more than that, wait for four hours, and return what was used since."""
    house = House(root, clock, policy=EvictionPolicy(max_bytes=2 * HALF.max_bytes))
    written = house.fill(0.6)
    house.seal()
    clock.advance(4 * HOUR)
    used = written[::every]
    house.touch(*used)
    house.close()
    return used


def housekeeper(house: House, removed: threading.Event) -> Housekeeper:
    chores = Chores(house.evictor, house.scrubber, house.leftovers, house.partials, house.quarantine, house.survivors)
    return Housekeeper(house.parts, chores, on_removal=removed.set)
