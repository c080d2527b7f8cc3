"""Results as files: what is promised beyond the contract."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ConfigurationError, ResourceExhausted, Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.filesystem import FilesystemResultStore
from gridwright_actioncache.results.result_directory import ResultDirectory
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, a_result, an_action

BLOCK = 4096


def opened(
    path: Path, clock: FakeClock | None = None, *, durable: bool = False, temp_path: Path | None = None, **bounds: int
) -> AbstractAsyncContextManager[FilesystemResultStore]:
    policy = EvictionPolicy(**bounds)
    return FilesystemResultStore.opened(path, clock or FakeClock(), policy=policy, temp_path=temp_path, durable=durable)


def files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file() and file.name != "lock")


class TestFilesystemResultStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ResultStore]:
        async with opened(tmp_path / "results", durable=True) as store:
            yield store


class TestBoundedFilesystemResultStore(ReplacingContract, DocumentsContract):
    """With bounds that are met by what a test puts, and not exceeded."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ResultStore]:
        async with opened(tmp_path / "results", max_bytes=4_000_000, max_count=100, max_seconds=60) as store:
            yield store


async def test_results_outlive_the_store(tmp_path: Path) -> None:
    actions = [an_action() for _ in range(20)]
    async with opened(tmp_path) as store:
        await asyncio.gather(*(store.put("a/b", action, action.hash.encode()) for action in actions))
    async with opened(tmp_path) as store:
        assert await store.get_many("a/b", actions) == {action: action.hash.encode() for action in actions}
        assert "20 results" in repr(store)


async def test_the_order_of_use_outlives_the_store(tmp_path: Path) -> None:
    clock = FakeClock()
    actions = [an_action() for _ in range(4)]
    async with opened(tmp_path, clock) as store:
        for action in actions:
            await store.put("main", action, b"x")
            clock.advance(10)
        await store.get_many("main", [actions[0]])
    async with opened(tmp_path, clock, max_count=4) as store:
        await store.put("main", an_action(), b"x")
        assert set(await store.get_many("main", actions)) == {actions[0], *actions[2:]}


async def test_bounds_that_were_lowered_hold_after_the_start(tmp_path: Path) -> None:
    clock = FakeClock()
    actions = [an_action() for _ in range(4)]
    async with opened(tmp_path, clock) as store:
        for action in actions:
            await store.put("main", action, b"x")
            clock.advance(10)
    async with opened(tmp_path, clock, max_count=2) as store:
        assert set(await store.get_many("main", actions)) == set(actions[2:])
    assert len(list(files(tmp_path))) == 2


async def test_what_the_files_take_never_exceeds_the_bound(tmp_path: Path) -> None:
    clock, max_bytes = FakeClock(), 100 * BLOCK
    peak = 0
    keep_many = ResultDirectory.keep_many

    def measured(self: ResultDirectory, *args: object) -> object:
        nonlocal peak
        failed = keep_many(self, *args)  # type: ignore[arg-type]
        peak = max(peak, sum(file.stat().st_blocks * 512 for file in files(tmp_path)))
        return failed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResultDirectory, "keep_many", measured)
        async with opened(tmp_path, clock, max_bytes=max_bytes) as store:
            last = []
            for _ in range(5):
                last = [an_action() for _ in range(80)]
                await asyncio.gather(*(store.put("main", action, a_result(5000)) for action in last))
                clock.advance(1)
            assert set(await store.get_many("main", last[-40:])) == set(last[-40:])
    assert 50 * BLOCK < peak <= max_bytes


async def test_once_the_bound_is_passed_so_much_more_goes_that_the_next_find_room(tmp_path: Path) -> None:
    actions = [an_action() for _ in range(11)]
    async with opened(tmp_path, max_bytes=10 * BLOCK, evict_bytes=4 * BLOCK) as store:
        for action in actions:
            await store.put("main", action, b"x")
        assert set(await store.get_many("main", actions)) == set(actions[5:])


async def test_what_was_not_used_for_long_is_not_found_and_its_file_goes(tmp_path: Path) -> None:
    clock = FakeClock()
    used, unused = an_action(), an_action()
    async with opened(tmp_path, clock, max_seconds=60) as store:
        await store.put("main", used, b"x")
        await store.put("main", unused, b"x")
        clock.advance(59)
        await store.get_many("main", [used])
        clock.advance(2)
        assert set(await store.get_many("main", [used, unused])) == {used}
    assert len(list(files(tmp_path))) == 1


async def test_a_result_that_is_larger_than_all_there_is_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=BLOCK) as store:
        kept = an_action()
        await store.put("main", kept, b"x")
        with pytest.raises(ResourceExhausted):
            await store.put("main", an_action(), bytes(BLOCK))
        assert await store.get_many("main", [kept]) == {kept: b"x"}


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "longer", "not ours"])
async def test_a_file_that_has_rotted_is_a_miss_and_counted_until_it_is_written_anew(
    tmp_path: Path, damage: str
) -> None:
    action, result = an_action(), a_result(1000)
    async with opened(tmp_path) as store:
        await store.put("main", action, result)
        (file,) = files(tmp_path)
        content = file.read_bytes()
        file.write_bytes(
            {
                "cut": content[:-1],
                "emptied": b"",
                "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:],
                "longer": content + b"x",
                "not ours": b"something else",
            }[damage]
        )
        assert await store.get_many("main", [action]) == {}
        assert store.malformed == 1
        await store.put("main", action, result)
        assert await store.get_many("main", [action]) == {action: result}


async def test_a_file_that_somebody_removed_is_a_miss(tmp_path: Path) -> None:
    action = an_action()
    async with opened(tmp_path) as store:
        await store.put("main", action, b"x")
        next(files(tmp_path)).unlink()
        assert await store.get_many("main", [action]) == {}


async def test_files_that_are_none_of_ours_are_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put("main", an_action(), b"x")
        folder = next(files(tmp_path)).parent
    for stray in (tmp_path / "README", folder / "notes", folder / "abc-12", tmp_path / "d" / "1-2"):
        stray.parent.mkdir(exist_ok=True)
        stray.write_text("mine")
    async with opened(tmp_path, max_count=1) as store:
        assert "1 results" in repr(store)
        await store.put("main", an_action(), b"x")
    assert len(list(files(tmp_path))) == 5


async def test_instances_have_folders_that_tell_their_names(tmp_path: Path) -> None:
    names = ["", "main", "a/b", "a%2Fb", "..", "x" * 300, "x" * 299 + "y", "größe"]
    action = an_action()
    async with opened(tmp_path) as store:
        for name in names:
            await store.put(name, action, name.encode())
    async with opened(tmp_path) as store:
        for name in names:
            assert await store.get_many(name, [action]) == {action: name.encode()}
    assert [name for name in os.listdir(tmp_path) if name.startswith("main-")]


async def test_what_a_dead_process_left_half_done_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "new-17").write_bytes(b"half")
    (tmp_path / "tmp" / "somebody's").write_bytes(b"left alone")
    async with opened(tmp_path):
        assert [file.name for file in files(tmp_path)] == ["somebody's"]


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "a", temp_path=tmp_path / "tmp"):
        for path, temp_path in ((tmp_path / "a", tmp_path / "tmp-2"), (tmp_path / "b", tmp_path / "tmp")):
            with pytest.raises(ConfigurationError, match="another process"):
                async with opened(path, temp_path=temp_path):
                    pass
    async with opened(tmp_path / "a", temp_path=tmp_path / "tmp"):
        pass


async def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=str(tmp_path / "file")):
        async with opened(tmp_path / "file" / "below"):
            pass


@pytest.mark.skipif(os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev, reason="there is one file system only")
async def test_a_temporary_directory_on_another_file_system_is_refused(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm") / f"gridwright-{os.getpid()}"
    try:
        with pytest.raises(ConfigurationError, match="file system"):
            async with opened(tmp_path, temp_path=elsewhere):
                pass
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, ResourceExhausted), (errno.EIO, Unavailable)])
@pytest.mark.parametrize("call", ["write", "fdatasync", "rename", "open"])
async def test_a_disk_that_fails_keeps_what_it_had_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception]
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    action = an_action()
    async with opened(tmp_path, durable=True) as store:
        await store.put("main", action, b"old")
        with monkeypatch.context() as patch:
            patch.setattr(f"gridwright_actioncache.results.result_directory.os.{call}", failing)
            with pytest.raises(error):
                await store.put("main", action, b"new")
        assert await store.get_many("main", [action]) == {action: b"old"}
        assert len(list(files(tmp_path))) == 1
        await store.put("main", action, b"new")
        assert await store.get_many("main", [action]) == {action: b"new"}


async def test_what_could_not_be_made_durable_is_not_acknowledged_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with opened(tmp_path, durable=True) as store:
        await store.put("main", an_action(), b"x")
        with monkeypatch.context() as patch:
            patch.setattr("gridwright_actioncache.results.result_directory.os.fsync", failing)
            with pytest.raises(Unavailable):
                await store.put("main", an_action(), b"x")
        assert f"2 results, {2 * BLOCK} bytes" in repr(store)


async def test_a_disk_that_cannot_be_read_is_unavailable_and_never_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    actions = [an_action() for _ in range(10)]
    async with opened(tmp_path) as store:
        for action in actions:
            await store.put("main", action, b"x")
        with monkeypatch.context() as patch:
            patch.setattr("gridwright_actioncache.results.result_directory.os.pread", failing)
            for some in (actions[:1], actions):
                with pytest.raises(Unavailable):
                    await store.get_many("main", some)
        assert len(await store.get_many("main", actions)) == 10


async def test_files_that_could_not_be_removed_go_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with opened(tmp_path, max_count=1) as store:
        await store.put("main", an_action(), b"x")
        with monkeypatch.context() as patch:
            patch.setattr("gridwright_actioncache.results.result_directory.os.unlink", failing)
            with pytest.raises(Unavailable):
                await store.put("main", an_action(), b"x")
        await store.put("main", an_action(), b"x")
        assert len(list(files(tmp_path))) == 1


async def test_writes_that_arrive_together_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    keep_many = ResultDirectory.keep_many

    def counted(self: ResultDirectory, results: dict[object, bytes], now: float) -> object:
        groups.append(len(results))
        return keep_many(self, results, now)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultDirectory, "keep_many", counted)
    async with opened(tmp_path) as store:
        await asyncio.gather(*(store.put("main", an_action(), b"x") for _ in range(500)))
    assert sum(groups) == 500
    assert len(groups) < 10


async def test_writes_wait_for_a_slow_disk_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_is_back = threading.Event()
    keep_many = ResultDirectory.keep_many

    def slow(self: ResultDirectory, *args: object) -> object:
        disk_is_back.wait(30)
        return keep_many(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultDirectory, "keep_many", slow)
    monkeypatch.setattr("gridwright_actioncache.results.grouped_changes._MAX_WAITING_BYTES", 1000)
    async with opened(tmp_path) as store:
        writers = []
        for _ in range(2):
            writers.append(asyncio.create_task(store.put("main", an_action(), bytes(600))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="wait"):
            await store.put("main", an_action(), bytes(600))
        disk_is_back.set()
        await asyncio.gather(*writers)


async def test_a_writer_that_leaves_takes_nothing_back(tmp_path: Path) -> None:
    action = an_action()
    async with opened(tmp_path) as store:
        leaving = asyncio.create_task(store.put("main", action, b"x"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await store.put("main", an_action(), b"y")
        assert await store.get_many("main", [action]) == {action: b"x"}


WRITER = """
import asyncio, sys
from pathlib import Path
from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright_actioncache.results.filesystem import FilesystemResultStore

async def write(store, writer):
    for number in range(1_000_000):
        result = f"{writer} {number} ".encode() * 500
        await store.put("main", DigestFunction.SHA256.digest(f"{writer % 4} {number % 50}".encode()), result)
        print(DigestFunction.SHA256.digest(result).hash, writer % 4, number % 50, flush=True)

async def main():
    async with FilesystemResultStore.opened(Path(sys.argv[1]), SystemClock(), policy=EvictionPolicy()) as store:
        await asyncio.gather(*(write(store, writer) for writer in range(4)))

asyncio.run(main())
"""


def write_and_kill(path: Path) -> dict[str, str]:
    """Return, for the name of each action, the hash of its result that was acknowledged last."""
    acknowledged = {}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            hash_, name = line.split(" ", 1)
            acknowledged[name.strip()] = hash_
            if len(acknowledged) >= 100:
                writer.kill()
    return acknowledged


async def test_what_was_acknowledged_is_there_and_whole_after_sigkill(tmp_path: Path) -> None:
    acknowledged = await asyncio.to_thread(write_and_kill, tmp_path)
    function = an_action().function
    actions = {name: function.digest(name.encode()) for name in acknowledged}
    async with opened(tmp_path) as store:
        found = await store.get_many("main", list(actions.values()))
        assert store.malformed == 0
    assert len(found) == len(acknowledged)
    whole = sum(function.digest(found[actions[name]]).hash == hash_ for name, hash_ in acknowledged.items())
    # Each of the four writers may have written once more without having heard of it.
    assert whole >= len(acknowledged) - 4
