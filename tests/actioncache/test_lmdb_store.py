"""Results in LMDB: what is promised beyond the contract."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest
from structlog.testing import capture_logs

from gridwright.digest import Digest
from gridwright.errors import ConfigurationError, ResourceExhausted, Unavailable
from gridwright.file_lock import try_lock
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.lmdb_environment import open_environment
from gridwright_actioncache.results.lmdb_store import LmdbStore
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action

MIB = 1024 * 1024


class TestLmdbStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ResultStore]:
        async with LmdbStore.open(tmp_path / "results", max_bytes=100 * MIB, clock=FakeClock()) as store:
            yield store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_results_outlive_the_store(tmp_path: Path, clock: FakeClock) -> None:
    actions = [an_action() for _ in range(20)]
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        await asyncio.gather(*(store.put("main", action, action.hash.encode()) for action in actions))
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        found = await store.get_many("main", actions)
    assert found == {action: action.hash.encode() for action in actions}


async def test_the_map_is_large_and_the_file_small(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        await store.put("main", an_action(), b"x")
        assert (tmp_path / "data.mdb").stat().st_size < MIB


async def test_writes_that_arrive_together_are_synchronised_together(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        await asyncio.gather(*(store.put("main", an_action(), b"x") for _ in range(500)))
        transactions = store._environment.info()["last_txnid"]
    # Two made the tables; without groups it would be 500.
    assert transactions < 20


async def test_the_oldest_go_when_it_is_full_and_the_disk_shows_it(tmp_path: Path, clock: FakeClock) -> None:
    max_bytes = 2 * MIB
    actions = []
    async with LmdbStore.open(tmp_path, max_bytes=max_bytes, clock=clock) as store:
        for _ in range(40):
            batch = [an_action() for _ in range(50)]
            await asyncio.gather(*(store.put("main", action, os.urandom(1500)) for action in batch))
            clock.advance(1)
            actions += batch
            assert store.used_bytes() <= max_bytes
        assert set(await store.get_many("main", actions[-50:])) == set(actions[-50:])
        assert await store.get_many("main", actions[:50]) == {}
        kept = await store.get_many("main", actions)
    assert 500 < len(kept) < 1500
    assert (tmp_path / "data.mdb").stat().st_size < 2 * max_bytes


async def test_large_results_go_to_make_room_as_well(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=4 * MIB, clock=clock) as store:
        actions = [an_action() for _ in range(40)]
        for action in actions:
            await store.put("main", action, os.urandom(300_000))
            clock.advance(1)
        assert store.used_bytes() <= 4 * MIB
        assert actions[-1] in await store.get_many("main", [actions[0], actions[-1]])


async def test_what_is_used_stays_and_what_is_not_goes(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=2 * MIB, clock=clock) as store:
        used, unused = an_action(), an_action()
        await store.put("main", used, b"used")
        await store.put("main", unused, b"unused")
        for _ in range(40):
            clock.advance(700)
            assert used in await store.get_many("main", [used])
            await asyncio.gather(*(store.put("main", an_action(), os.urandom(1500)) for _ in range(50)))
        assert await store.get_many("main", [used, unused]) == {used: b"used"}


async def test_reading_what_was_used_lately_writes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=2 * MIB, clock=clock) as store:
        action = an_action()
        await store.put("main", action, b"x")
        clock.advance(500)
        await store.get_many("main", [action])
        assert store._touched == set()


async def test_uses_that_wait_are_written_at_the_end(tmp_path: Path, clock: FakeClock) -> None:
    action = an_action()
    async with LmdbStore.open(tmp_path, max_bytes=2 * MIB, clock=clock) as store:
        await store.put("main", action, b"x")
        clock.advance(1000)
        await store.get_many("main", [action])
    async with LmdbStore.open(tmp_path, max_bytes=2 * MIB, clock=clock) as store:
        await store.get_many("main", [action])
        assert store._touched == set()


async def test_more_keys_than_are_read_inline_are_found_too(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        actions = [an_action() for _ in range(200)]
        await asyncio.gather(*(store.put("main", action, b"x") for action in actions))
        assert set(await store.get_many("main", actions)) == set(actions)


async def test_a_result_that_would_push_out_all_others_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock) as store:
        with pytest.raises(ResourceExhausted):
            await store.put("main", an_action(), bytes(MIB))


async def test_writes_wait_for_a_slow_disk_within_bounds(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_back = threading.Event()
    commit = LmdbStore._commit

    def slow(self: LmdbStore, *args: object) -> bool:
        disk_is_back.wait(30)
        return commit(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LmdbStore, "_commit", slow)
    monkeypatch.setattr("gridwright_actioncache.results.grouped_changes._MAX_WAITING_BYTES", 1000)
    async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock) as store:
        first = asyncio.create_task(store.put("main", an_action(), bytes(600)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.create_task(store.put("main", an_action(), bytes(600)))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="wait") as caught:
            await store.put("main", an_action(), bytes(600))
        assert caught.value.retry_after_seconds == 1.0
        disk_is_back.set()
        await asyncio.gather(first, second)


async def test_a_writer_that_leaves_takes_nothing_back(tmp_path: Path, clock: FakeClock) -> None:
    action = an_action()
    async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock) as store:
        leaving = asyncio.create_task(store.put("main", action, b"x"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await store.put("main", an_action(), b"y")
        assert await store.get_many("main", [action]) == {action: b"x"}


async def test_trouble_with_the_directory_is_unavailable_and_never_a_miss(tmp_path: Path, clock: FakeClock) -> None:
    action = an_action()
    async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock) as store:
        await store.put("main", action, b"x")
        store._environment.close()
        with pytest.raises(Unavailable):
            await store.get_many("main", [action])
        with pytest.raises(Unavailable):
            await store.put("main", action, b"y")


@pytest.mark.parametrize("error", [lmdb.MapFullError("full"), lmdb.DiskError("no space left on device")])
async def test_a_full_map_or_disk_is_no_room(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, error: lmdb.Error
) -> None:
    action = an_action()

    def full(self: LmdbStore, *args: object) -> bool:
        raise error

    async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock) as store:
        await store.put("main", action, b"old")
        with monkeypatch.context() as patch:
            patch.setattr(LmdbStore, "_commit", full)
            with pytest.raises(ResourceExhausted):
                await store.put("main", action, b"new")
        assert await store.get_many("main", [action]) == {action: b"old"}
        await store.put("main", action, b"new")
        assert await store.get_many("main", [action]) == {action: b"new"}


async def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=str(tmp_path / "file")):
        async with LmdbStore.open(tmp_path / "file" / "below", max_bytes=MIB, clock=clock):
            pass


async def write_some(path: Path, clock: FakeClock) -> list[Digest]:
    actions = [an_action() for _ in range(200)]
    async with LmdbStore.open(path, max_bytes=100 * MIB, clock=clock) as store:
        await asyncio.gather(*(store.put("main", action, os.urandom(1000)) for action in actions))
    return actions


async def test_a_data_file_that_is_cut_short_is_set_aside_and_the_cache_begins_anew(
    tmp_path: Path, clock: FakeClock
) -> None:
    for _ in range(2):
        actions = await write_some(tmp_path, clock)
        os.truncate(tmp_path / "data.mdb", (tmp_path / "data.mdb").stat().st_size // 2)
        with capture_logs() as lines:
            async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
                assert await store.get_many("main", actions) == {}
                await store.put("main", actions[0], b"x")
                assert await store.get_many("main", actions) == {actions[0]: b"x"}
        (line,) = lines
        assert line["log_level"] == "error"
        assert line["data_file"] == str(tmp_path / "data.mdb.cut-short")
    assert sorted(os.listdir(tmp_path)) == [
        "data.mdb",
        "data.mdb.cut-short",
        "lock.mdb",
        "lock.mdb.cut-short",
        "opening",
    ]


async def test_who_has_the_directory_open_goes_on_when_another_one_starts_anew(
    tmp_path: Path, clock: FakeClock
) -> None:
    actions = await write_some(tmp_path, clock)
    async with LmdbStore.open(tmp_path, max_bytes=100 * MIB, clock=clock) as store:
        whole = (tmp_path / "data.mdb").stat().st_size
        os.rename(tmp_path / "data.mdb", tmp_path / "whole")
        (tmp_path / "data.mdb").write_bytes((tmp_path / "whole").read_bytes()[: whole // 2])
        environment = await open_environment(tmp_path)
        environment.close()
        await store.put("main", actions[0], b"x")
        assert len(await store.get_many("main", actions)) == 200


async def test_two_that_start_at_the_same_time_do_so_one_after_the_other(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_actioncache.results.lmdb_environment._OPENING_SECONDS", 0.0)
    lock = try_lock(tmp_path / "opening")
    assert lock is not None
    with pytest.raises(ConfigurationError, match="another process"):
        async with LmdbStore.open(tmp_path, max_bytes=MIB, clock=clock):
            pass
    os.close(lock)
    await write_some(tmp_path, clock)
