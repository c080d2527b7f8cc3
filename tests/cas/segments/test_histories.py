"""Any history of uploads, reads, faults, restarts and power cuts: hypothesis looks for one that loses a blob."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.store import SegmentStore
from tests.cas.segments.failing_disk import CHANGES, NEEDS_SPACE, FailingDisk
from tests.cas.segments.power_cut import Cut, Survival
from tests.cas.segments.segment_stores import (
    LARGE_BYTES,
    MIB,
    disk_bytes,
    make_files_of_small_blobs,
    opened_store,
    report_syncs,
    served,
)
from tests.cas.segments.volatile_disk import VolatileDisk

SHA256 = DigestFunction.SHA256
REFUSALS = (ResourceExhausted, Unavailable)

SIZES = st.sampled_from([1, 100, 4_096, 20_000, LARGE_BYTES, LARGE_BYTES + 1, 2 * LARGE_BYTES + 5])
CUTS = st.builds(Cut, st.sampled_from(Survival), st.booleans(), st.integers(0, 1_000))
FAULTS = st.sampled_from(
    [
        (errno.ENOSPC, NEEDS_SPACE),
        (errno.ENOSPC, frozenset({"write"})),
        (errno.EIO, CHANGES),
        (errno.EIO, frozenset({"sync"})),
        (errno.EIO, frozenset({"sync_directory", "rename", "unlink"})),
        (errno.EROFS, CHANGES),
    ]
)


class Histories(RuleBasedStateMachine):
    """One store on one disk, and what it has promised.

    Blobs are known by a number, so that a history is short to read.
    """

    max_bytes = 1024 * MIB

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        report_syncs(self.patches)
        make_files_of_small_blobs(self.patches)
        self.top = Path(tempfile.mkdtemp(prefix="histories-"))
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.serial = 0
        #: All that was ever put, and of that, what must be there.
        self.tried: dict[Digest, bytes] = {}
        self.acknowledged: dict[Digest, bytes] = {}

    @initialize()
    def begin(self) -> None:
        self.path = self._new_directory()
        self._open()

    @rule(number=st.integers(0, 30), sizes=st.lists(SIZES, min_size=1, max_size=4))
    def put(self, number: int, sizes: list[int]) -> None:
        self.runner.run(self._put_at_once([self._blob(number, size) for size in sizes]))

    @rule()
    def look(self) -> None:
        self.runner.run(self._look())

    @rule(seconds=st.sampled_from([1.0, 70.0, 700.0, 20_000.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(fault=FAULTS, after=st.integers(0, 6), times=st.sampled_from([1.0, 2.0, float("inf")]))
    def break_disk(self, fault: tuple[int, frozenset[str]], after: int, times: float) -> None:
        self.disk.fail(*fault, after=after, times=times)

    @rule()
    def heal_disk(self) -> None:
        self.disk.heal()

    @rule()
    def reopen(self) -> None:
        self._close()
        self.disk.heal()
        self._open()
        self.runner.run(self._look())

    @rule(cut=CUTS)
    def cut_power(self, cut: Cut) -> None:
        self._go_on_after(self._image(cut))

    @rule(
        cut=CUTS, number=st.integers(100, 130), sizes=st.lists(SIZES, min_size=1, max_size=3), after=st.integers(0, 9)
    )
    def cut_power_during_puts(self, cut: Cut, number: int, sizes: list[int], after: int) -> None:
        """What was acknowledged before the cut counts, and nothing that came later."""
        images: list[tuple[Path, dict[Digest, bytes]]] = []
        left = after

        def before_change(operation: str, path: str) -> None:
            nonlocal left
            if left == 0:
                acknowledged = dict(self.acknowledged)
                images.append((self._image(cut), acknowledged))
            left -= 1

        self.disk.inner.before_change = before_change
        self.runner.run(self._put_at_once([self._blob(number, size) for size in sizes]))
        self.disk.inner.before_change = lambda operation, path: None
        if images:
            image, self.acknowledged = images[0]
            self._go_on_after(image)

    def teardown(self) -> None:
        self._close()
        self.runner.close()
        shutil.rmtree(self.top)
        self.patches.undo()

    async def _put_at_once(self, blobs: list[bytes]) -> None:
        """Put the first by itself and the others in bulk; what is refused, and by neither kept, leaves nothing."""
        named = {SHA256.digest(blob): blob for blob in blobs}
        self.tried |= named
        there = set(named) - await self.store.missing(set(named))
        outcomes = await asyncio.gather(self._put(blobs[:1]), self._put_many(blobs[1:]))
        refused = {digest for outcome in outcomes for digest in outcome} - there - set(self.acknowledged)
        assert await self.store.missing(refused) == refused

    async def _put(self, blobs: list[bytes]) -> list[Digest]:
        """Return those that were refused."""
        for blob in blobs:
            digest = SHA256.digest(blob)
            try:
                await self.store.put(digest, chunks_of(blob))
            except REFUSALS:
                return [digest]
            self.acknowledged[digest] = blob
        return []

    async def _put_many(self, blobs: list[bytes]) -> list[Digest]:
        """Return those that were refused."""
        named = {SHA256.digest(blob): blob for blob in blobs}
        outcomes = await self.store.put_many(named)
        refused = [digest for digest, error in outcomes.items() if error is not None]
        assert all(isinstance(outcomes[digest], REFUSALS) for digest in refused)
        self.acknowledged |= {digest: named[digest] for digest in named if outcomes[digest] is None}
        return refused

    async def _look(self) -> None:
        there = await served(self.store, self.tried)
        assert self.acknowledged.items() <= there.items()

    def _image(self, cut: Cut) -> Path:
        image = self._new_directory()
        self.disk.inner.cut_power(image, cut)
        return image

    def _go_on_after(self, image: Path) -> None:
        self._close()
        shutil.rmtree(self.path)
        self.path = image
        self._open()
        self.runner.run(self._look())

    def _new_directory(self) -> Path:
        self.serial += 1
        path = self.top / str(self.serial)
        path.mkdir()
        return path

    def _open(self) -> None:
        self.disk = FailingDisk(VolatileDisk(self.path))
        self.stack = AsyncExitStack()
        self.store: BlobStore = self.runner.run(
            self.stack.enter_async_context(
                opened_store(self.path / "store", self.clock, disk=self.disk, max_bytes=self.max_bytes)
            )
        )

    def _close(self) -> None:
        self.runner.run(self.stack.aclose())

    @staticmethod
    def _blob(number: int, size: int) -> bytes:
        return random.Random(number).randbytes(size)


Histories.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestHistories = Histories.TestCase


class HistoriesWithEvictions(Histories):
    """The same in a store that is full: what is old may go, what came last stays, and ``du`` is within the bound."""

    max_bytes = 16 * MIB

    @initialize()
    def begin(self) -> None:
        self.filled = 0
        super().begin()

    @rule(count=st.integers(20, 80), size=st.sampled_from([300, 20_000, LARGE_BYTES, 4 * LARGE_BYTES]))
    def fill(self, count: int, size: int) -> None:
        self.filled += count
        blobs = [self._blob(1_000_000 + self.filled - number, size) for number in range(count)]
        for start in range(0, count, 4):
            self.clock.advance(1)  # of blobs that were used at the same moment any may go first
            self.runner.run(self._put_many(blobs[start : start + 4]))
        self.tried |= {SHA256.digest(blob): blob for blob in blobs}
        self._check_size()

    @rule(number=st.integers(0, 30), sizes=st.lists(SIZES, min_size=1, max_size=4))
    def put(self, number: int, sizes: list[int]) -> None:
        self.clock.advance(1)
        super().put(number, sizes)
        self._check_size()

    async def _look(self) -> None:
        there = await served(self.store, self.tried)
        left_bytes = self.max_bytes // 8
        for digest in reversed(self.acknowledged):
            left_bytes -= digest.size_bytes
            if left_bytes < 0:
                break
            assert digest in there, f"{digest} was among the last"

    def _check_size(self) -> None:
        assert disk_bytes(self.path / "store") <= self.max_bytes

    def _open(self) -> None:
        super()._open()
        assert isinstance(self.store, SegmentStore)
        self.store.engine.room.wait_seconds = 0.5


HistoriesWithEvictions.TestCase.settings = settings(
    Histories.TestCase.settings, max_examples=20, stateful_step_count=15
)
TestHistoriesWithEvictions = HistoriesWithEvictions.TestCase
