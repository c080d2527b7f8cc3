"""Several processes use one directory at the same time, and each has what any of them has acknowledged."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.errors import ConfigurationError
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.row import SegmentState
from tests.cas.segments.segment_stores import opened_store, served
from tests.cas.segments.store_process import blobs_of

LARGE = CHUNK_BYTES + 1


class StoreProcess:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def told(self, line: str) -> str:
        """Say *line* and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self.answer()

    async def answer(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return (await self._process.stdout.readline()).decode().strip()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def store_process(path: Path) -> AsyncIterator[StoreProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.cas.segments.store_process", str(path)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=Path(__file__).parents[3],
    )
    store = StoreProcess(process)
    try:
        assert await store.answer() == "ready"
        yield store
    finally:
        async with asyncio.timeout(30):
            await process.communicate(b"")


def segments_of(path: Path) -> dict[int, SegmentState]:
    """Return what the index says; for when no store is open in this process."""
    index = Index.open(path / "index", SystemDisk())
    try:
        with index.reading() as txn:
            return index.segments.states(txn)
    finally:
        index.close()


async def test_what_one_process_has_acknowledged_another_one_has(tmp_path: Path) -> None:
    async with store_process(tmp_path) as one, store_process(tmp_path) as other:
        assert await one.told("put a 500 900") == "ok"
        assert await one.told(f"put b 3 {LARGE}") == "ok"
        assert await other.told("check a 500 900") == "500"
        assert await other.told(f"check b 3 {LARGE}") == "3"
        assert await other.told("put c 500 900") == "ok"
        assert await one.told("check c 500 900") == "500"


async def test_processes_that_write_the_same_blobs_at_once_all_succeed(tmp_path: Path) -> None:
    async with store_process(tmp_path) as one, store_process(tmp_path) as other, store_process(tmp_path) as third:
        lines = [line for number in range(10) for line in (f"put {number} 300 900", f"put large{number} 1 {LARGE}")]
        for line in lines:
            assert set(await asyncio.gather(*(process.told(line) for process in (one, other, third)))) == {"ok"}
        for number in range(10):
            assert await third.told(f"check {number} 300 900") == "300"
            assert await third.told(f"check large{number} 1 {LARGE}") == "1"
    states = segments_of(tmp_path).values()
    assert sum(state.live_count for state in states) == 3000
    # Each large blob has one file: those of the slower ones are gone.
    assert len(list((tmp_path / "large").iterdir())) == 10


async def test_each_process_appends_to_a_segment_of_its_own(tmp_path: Path) -> None:
    async with store_process(tmp_path) as one, store_process(tmp_path) as other:
        assert await one.told("put a 5 900") == "ok"
        assert await other.told("put b 5 900") == "ok"
        assert [state.is_open for state in segments_of(tmp_path).values()] == [True, True]
    assert [state.is_open for state in segments_of(tmp_path).values()] == [False, False]


async def test_a_process_that_writes_nothing_leaves_no_segment(tmp_path: Path) -> None:
    async with store_process(tmp_path) as one:
        assert await one.told("check a 5 900") == "0"
    assert segments_of(tmp_path) == {}


async def test_the_segment_of_a_killed_process_is_sealed_by_the_next_and_not_that_of_a_living_one(
    tmp_path: Path,
) -> None:
    async with store_process(tmp_path) as living:
        assert await living.told("put a 5 900") == "ok"
        async with store_process(tmp_path) as dying:
            assert await dying.told("put b 5 900") == "ok"
            await dying.kill()
        async with opened_store(tmp_path, FakeClock()) as store:
            blobs = blobs_of("a", 5, 900) | blobs_of("b", 5, 900)
            assert await served(store, blobs) == blobs
        assert [state.is_open for state in segments_of(tmp_path).values()] == [True, False]
        assert await living.told("put c 5 900") == "ok"
        assert await living.told("check b 5 900") == "5"


async def test_one_process_opens_a_directory_once(tmp_path: Path) -> None:
    async with opened_store(tmp_path, FakeClock()):
        with pytest.raises(ConfigurationError, match="index"):
            async with opened_store(tmp_path, FakeClock()):
                pass
