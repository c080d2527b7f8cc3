"""The housekeeper goes on, whatever happens to it."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.evictor import Evictor
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.store import SegmentStore


async def test_a_fault_that_nobody_foresaw_is_told_and_housekeeping_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = threading.Event()
    faults = [KeyError("nobody foresaw this")]

    def run(evictor: Evictor) -> None:
        if faults:
            raise faults.pop()
        went_on.set()

    monkeypatch.setattr(Evictor, "run", run)
    monkeypatch.setattr(Evictor, "make_room", run)
    settings = SegmentSettings(EvictionPolicy(max_bytes=2**26))
    async with SegmentStore.opened(tmp_path / "store", SystemClock(), settings) as store:
        assert await asyncio.to_thread(went_on.wait, 10)
        assert store.engine.stats.housekeeping_failures == 1
        assert "nobody foresaw this" in repr(store)


async def test_left_uploads_that_a_full_disk_does_not_let_go_keep_nobody_from_evicting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = threading.Event()

    def relieve(_: PartialUploads) -> int:
        raise OSError(errno.EIO, "the disk does not answer")

    monkeypatch.setattr(PartialUploads, "relieve", relieve)
    monkeypatch.setattr(Evictor, "run", lambda _: went_on.set())
    settings = SegmentSettings(EvictionPolicy(max_bytes=2**26))
    async with SegmentStore.opened(tmp_path / "store", SystemClock(), settings) as store:
        assert await asyncio.to_thread(went_on.wait, 10)
    assert "the disk does not answer" in (store.engine.stats.last_housekeeping_failure or "")
