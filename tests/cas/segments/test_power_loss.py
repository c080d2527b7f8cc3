"""The power is cut at any moment: what was acknowledged is there byte for byte, and nothing torn is."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from pathlib import Path

import pytest

from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from tests.cas.segments.power_cut import Cut, Survival
from tests.cas.segments.segment_stores import LARGE_BYTES, MIB, make_files_of_small_blobs, opened_store, served
from tests.cas.segments.volatile_disk import VolatileDisk

SHA256 = DigestFunction.SHA256
Blobs = dict[Digest, bytes]

#: Every way to cut.
WAYS = list(itertools.product(Survival, (False, True)))
CUTS = [pytest.param(*way, id=f"{way[0].value}-{'undone' if way[1] else 'committed'}") for way in WAYS]


@pytest.fixture(autouse=True)
def files_of_small_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    make_files_of_small_blobs(monkeypatch)


class Images:
    """Cuts the power before each change that a disk is asked to make, and keeps what was left each time.

    Or only of what one *thread* does: before each write, and every so many of its other changes.
    """

    def __init__(
        self,
        disk: VolatileDisk,
        target: Path,
        survival: Survival,
        undo: bool,
        thread: str = "",
        every: int = 1,
    ) -> None:
        self.taken: list[tuple[Path, Blobs, str]] = []
        #: What the store has said that it keeps.
        self.acknowledged: Blobs = {}
        self._disk = disk
        self._target = target
        self._cuts = (Cut(survival, undo, seed) for seed in itertools.count())
        self._thread = thread
        self._every = every
        self._changes = itertools.count()
        self._lock = threading.Lock()
        disk.before_change = self._before_change

    def take(self, what: str) -> None:
        """Cut the power now."""
        with self._lock:
            acknowledged = dict(self.acknowledged)
            target = self._target / str(len(self.taken))
            self._disk.cut_power(target, next(self._cuts))
            self.taken.append((target, acknowledged, what))

    def _before_change(self, operation: str, path: str) -> None:
        if not threading.current_thread().name.startswith(self._thread):
            return
        if operation == "write" or next(self._changes) % self._every == 0:
            self.take(f"before {operation} {path}")


async def load(store: BlobStore, chance: random.Random, images: Images) -> None:
    """Put blobs of all sorts; each is counted as acknowledged at once."""

    async def put(size: int) -> None:
        blob = chance.randbytes(size)
        digest = SHA256.digest(blob)
        await store.put(digest, chunks_of(blob))
        images.acknowledged[digest] = blob
        images.take(f"once {size} bytes were acknowledged")

    async def put_many(*sizes: int) -> None:
        blobs = {SHA256.digest(blob): blob for blob in map(chance.randbytes, sizes)}
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        images.acknowledged |= blobs
        images.take(f"once {len(blobs)} blobs were acknowledged")

    await put(100)
    await put_many(1, 2_000, 20_000)
    await put(2 * LARGE_BYTES + 5)
    await asyncio.gather(put(10), put_many(500, 600, LARGE_BYTES + 1), put(3_000))
    again, blob = next(iter(images.acknowledged.items()))
    await write_blob(store, again, blob)


@pytest.mark.parametrize(("survival", "undo"), CUTS)
async def test_the_power_is_cut_before_each_change(tmp_path: Path, survival: Survival, undo: bool) -> None:
    clock = FakeClock()
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").mkdir()
    disk = VolatileDisk(tmp_path / "disk")
    images = Images(disk, tmp_path / "images", survival, undo)
    chance = random.Random(1)
    # The first one makes the store, the second one finds it.
    for _ in range(2):
        async with opened_store(tmp_path / "disk" / "store", clock, disk=disk) as store:
            await load(store, chance, images)
        images.take("once the store was closed")
    assert len(images.taken) > 30
    # Each change is looked at by some of the cuts.
    for image, acknowledged, when in images.taken[WAYS.index((survival, undo)) % 2 :: 2]:
        await outlasted(image, acknowledged, images.acknowledged, when)


async def outlasted(image: Path, acknowledged: Blobs, tried: Blobs, when: str) -> None:
    """Open what a cut left; all that was acknowledged must be there, and the store must be of use."""
    more = {SHA256.digest(blob): blob for blob in (b"afterwards", b"more" * LARGE_BYTES)}
    async with opened_store(image / "store", FakeClock(), durable=False) as store:
        there = await served(store, tried)
        assert acknowledged.items() <= there.items(), when
        assert await store.put_many(more) == dict.fromkeys(more)
    async with opened_store(image / "store", FakeClock(), durable=False) as store:
        assert (there | more).items() <= (await served(store, tried | more)).items(), when


async def test_the_directories_above_a_new_store_are_durable_too(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk = VolatileDisk(tmp_path / "disk")
    blob = b"in a directory that was made for it"
    async with opened_store(tmp_path / "disk" / "new" / "as well" / "store", FakeClock(), disk=disk) as store:
        await write_blob(store, SHA256.digest(blob), blob)
        disk.cut_power(tmp_path / "image", Cut(Survival.NOTHING))
    async with opened_store(tmp_path / "image" / "new" / "as well" / "store", FakeClock()) as store:
        assert await served(store, [SHA256.digest(blob)]) == {SHA256.digest(blob): blob}


@pytest.mark.parametrize("survival", Survival)
async def test_the_power_is_cut_again_and_again(tmp_path: Path, survival: Survival) -> None:
    """Also while the store recovers from the cut before."""
    chance = random.Random(2)
    acknowledged: Blobs = {}
    path = tmp_path / "0"
    path.mkdir()
    for number in range(8):
        disk = VolatileDisk(path)
        images = Images(disk, tmp_path / f"images {number}", survival, bool(number % 2))
        (tmp_path / f"images {number}").mkdir()
        images.acknowledged = acknowledged
        async with opened_store(path / "store", FakeClock(), disk=disk) as store:
            assert acknowledged.items() <= (await served(store, acknowledged)).items()
            await load(store, chance, images)
        path, acknowledged, _ = chance.choice(images.taken)


@pytest.mark.parametrize(("survival", "undo"), CUTS[1::2])
async def test_the_power_is_cut_while_old_blobs_are_evicted(tmp_path: Path, survival: Survival, undo: bool) -> None:
    """Whatever is left of the old ones can be read, and the young ones are all there."""
    max_bytes, size = 8 * MIB, 20_000
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").mkdir()
    disk = VolatileDisk(tmp_path / "disk")
    images = Images(disk, tmp_path / "images", survival, undo, thread="segment-housekeeper", every=25)
    chance = random.Random(3)
    clock = FakeClock()
    async with opened_store(tmp_path / "disk" / "store", clock, disk=disk, max_bytes=max_bytes) as store:
        while sum(digest.size_bytes for digest in images.acknowledged) < 2 * max_bytes:
            blobs = {SHA256.digest(blob): blob for blob in map(chance.randbytes, [size] * 20 + [4 * size] * 2)}
            assert await store.put_many(blobs) == dict.fromkeys(blobs)
            images.acknowledged |= blobs
            clock.advance(60)
            # Some are used again and again, so they are copied forward.
            await store.missing(set(itertools.islice(images.acknowledged, 10)))
    assert len(images.taken) > 4
    for image, acknowledged, when in images.taken:
        async with opened_store(image / "store", clock, max_bytes=max_bytes, durable=False) as store:
            there = await served(store, images.acknowledged)
            assert set(list(acknowledged)[-60:]) <= set(there), when
