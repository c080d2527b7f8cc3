"""The whole segment store within its bounds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.clock import SystemClock
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.eviction_contract import EvictionContract
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.store import SegmentStore
from tests.cas.segments.house import MIB, SHA256

SETTINGS = SegmentSettings(EvictionPolicy(max_bytes=8 * MIB), durable=False)


class TestSegmentStore(EvictionContract):
    capacity_bytes = 8 * MIB

    @pytest.fixture
    async def bounded_store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with SegmentStore.opened(tmp_path / "store", SystemClock(), SETTINGS) as store:
            yield store


async def test_the_disk_never_has_more_than_it_may_whatever_is_uploaded_at_once(tmp_path: Path) -> None:
    most = 0

    def look() -> None:
        nonlocal most
        used = 0
        for folder, _, names in os.walk(tmp_path):
            for name in (".", *names):
                try:
                    used += os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
        most = max(most, used)

    async def upload(store: BlobStore, number: int) -> None:
        for turn in range(12):
            if (turn + number) % 3:
                blobs = {SHA256.digest(data): data for data in (os.urandom(3000) for _ in range(100))}
                assert await store.put_many(blobs) == dict.fromkeys(blobs)
            else:
                data = os.urandom(MIB + MIB // 2)
                await store.put(SHA256.digest(data), chunks_of(data))
            await asyncio.to_thread(look)

    settings = SegmentSettings(EvictionPolicy(max_bytes=16 * MIB), durable=False)
    async with SegmentStore.opened(tmp_path, SystemClock(), settings) as store:
        await asyncio.gather(*(upload(store, number) for number in range(4)))
    assert 10 * MIB < most <= 16 * MIB


async def test_a_process_that_does_not_keep_house_gets_room_from_the_one_that_does(tmp_path: Path) -> None:
    """Two stores in one process cannot share an environment, so the other one is a process."""
    script = f"""
import asyncio, os
from pathlib import Path
from gridwright.clock import SystemClock
from tests.cas.segments.test_segment_eviction import SETTINGS, SHA256, SegmentStore
async def main() -> None:
    async with SegmentStore.opened(Path({str(tmp_path)!r}), SystemClock(), SETTINGS) as store:
        for _ in range(100):
            blobs = {{SHA256.digest(data): data for data in (os.urandom(4000) for _ in range(50))}}
            kept = await store.put_many(blobs)
            assert not any(kept.values()), next(filter(None, kept.values()))
asyncio.run(main())
"""
    async with SegmentStore.opened(tmp_path, SystemClock(), SETTINGS) as store:
        data = os.urandom(1000)
        digest = SHA256.digest(data)
        await write_blob(store, digest, data)
        removed = asyncio.Event()
        store.on_removal(lambda _: removed.set())
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        while child.returncode is None:
            try:
                await asyncio.wait_for(child.wait(), 0.1)
            except TimeoutError:
                # Used all the time, so it stays; and this process evicts for the other one.
                assert await store.missing({digest}) == set()
        assert child.returncode == 0
        assert await read_all(store, digest) == data
        await asyncio.wait_for(removed.wait(), 10)
