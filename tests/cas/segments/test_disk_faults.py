"""The disk is full, fails, or has become read-only: callers hear of it, reads go on, and it passes."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ConfigurationError, GridwrightError, ResourceExhausted, Unavailable
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.index import Index
from tests.cas.segments.failing_disk import CHANGES, NEEDS_SPACE, OPERATIONS, READS, FailingDisk
from tests.cas.segments.power_cut import Cut, Survival
from tests.cas.segments.segment_stores import LARGE_BYTES, make_files_of_small_blobs, opened_store, served
from tests.cas.segments.volatile_disk import VolatileDisk

SHA256 = DigestFunction.SHA256
Blobs = dict[Digest, bytes]

FAULTS = [
    pytest.param(errno.ENOSPC, NEEDS_SPACE, ResourceExhausted, id="disk-full"),
    pytest.param(errno.EDQUOT, frozenset({"write"}), ResourceExhausted, id="quota"),
    pytest.param(errno.EIO, CHANGES, Unavailable, id="no-write-succeeds"),
    pytest.param(errno.EIO, frozenset({"sync"}), Unavailable, id="no-sync-succeeds"),
    pytest.param(errno.EROFS, CHANGES, Unavailable, id="read-only"),
]


@pytest.fixture(autouse=True)
def files_of_small_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    make_files_of_small_blobs(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "store"


@pytest.fixture
def disk(path: Path) -> FailingDisk:
    return FailingDisk(VolatileDisk(path.parent))


@pytest.fixture
async def store(path: Path, disk: FailingDisk) -> AsyncIterator[BlobStore]:
    async with opened_store(path, FakeClock(), disk=disk) as store:
        yield store


def some_blobs(seed: int) -> Blobs:
    chance = random.Random(seed)
    sizes = (1, 500, 20_000, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES + 17)
    return {SHA256.digest(blob): blob for blob in map(chance.randbytes, sizes)}


async def tried(store: BlobStore, blobs: Blobs) -> dict[Digest, GridwrightError | None]:
    """Put some in bulk and the others one by one, all at once; return what became of each."""

    async def put(digest: Digest) -> GridwrightError | None:
        try:
            await store.put(digest, chunks_of(blobs[digest]))
        except GridwrightError as error:
            return error
        return None

    digests = list(blobs)
    bulk = {digest: blobs[digest] for digest in digests[::2]}
    one_by_one = asyncio.gather(*map(put, digests[1::2]))
    outcomes = dict(await store.put_many(bulk))
    return outcomes | dict(zip(digests[1::2], await one_by_one, strict=True))


@pytest.mark.parametrize(("error", "operations", "answer"), FAULTS)
async def test_while_nothing_can_be_written_uploads_say_so_and_reads_go_on(
    store: BlobStore, disk: FailingDisk, error: int, operations: frozenset[str], answer: type[GridwrightError]
) -> None:
    kept, refused = some_blobs(1), some_blobs(2)
    assert await tried(store, kept) == dict.fromkeys(kept)
    disk.fail(error, operations)
    for _ in range(3):
        outcomes = await tried(store, refused)
        assert {type(outcome) for outcome in outcomes.values()} == {answer}
        assert all(str(outcome) for outcome in outcomes.values())
        assert await served(store, kept | refused) == kept
    disk.heal()
    assert await tried(store, refused) == dict.fromkeys(refused)
    assert await served(store, kept | refused) == kept | refused


@pytest.mark.parametrize(("error", "operations", "answer"), FAULTS)
async def test_any_single_call_fails(
    tmp_path: Path, path: Path, error: int, operations: frozenset[str], answer: type[GridwrightError]
) -> None:
    """What failed leaves nothing behind, can be put again at once, and harms nothing that was kept, cut or not."""
    disk = FailingDisk(VolatileDisk(path.parent))
    kept: Blobs = {}
    cuts: list[tuple[Path, Blobs]] = []
    async with opened_store(path, FakeClock(), disk=disk) as store:
        for after in range(100):
            blobs = some_blobs(after)
            failed_before = disk.failed
            disk.fail(error, operations, after=after, times=1)
            outcomes = await tried(store, blobs)
            kept |= {digest: blobs[digest] for digest, outcome in outcomes.items() if outcome is None}
            assert {type(outcome) for outcome in outcomes.values() if outcome is not None} <= {answer}
            assert await served(store, blobs) == {digest: blobs[digest] for digest in blobs if digest in kept}
            cuts.append((tmp_path / str(after), dict(kept)))
            disk.inner.cut_power(cuts[-1][0], Cut(list(Survival)[after % 3], bool(after % 2), after))
            if disk.failed == failed_before:
                break
            disk.heal()
            assert await tried(store, blobs) == dict.fromkeys(blobs)
            kept |= blobs
        assert disk.failed == after > 1
    for image, acknowledged in cuts:
        async with opened_store(image / "store", FakeClock(), durable=False) as store:
            assert await served(store, acknowledged) == acknowledged


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES])
async def test_what_cannot_be_read_is_not_missing(store: BlobStore, disk: FailingDisk, error: int) -> None:
    blobs = some_blobs(1)
    assert await tried(store, blobs) == dict.fromkeys(blobs)
    disk.fail(error, READS)
    for digest in blobs:
        with pytest.raises(Unavailable):
            await read_all(store, digest)
    assert {type(found) for found in (await store.get_many(list(blobs))).values()} == {Unavailable}
    disk.heal()
    assert await served(store, blobs) == blobs


async def test_a_read_that_fails_half_way_ends_with_an_error(store: BlobStore, disk: FailingDisk) -> None:
    blob = os.urandom(4 * CHUNK_BYTES)
    digest = SHA256.digest(blob)
    await store.put(digest, chunks_of(blob))
    reading = store.get(digest)
    assert blob.startswith(await anext(reading))
    disk.fail(errno.EIO, frozenset({"read"}))
    with pytest.raises(Unavailable):
        b"".join([chunk async for chunk in reading])
    disk.heal()
    assert await read_all(store, digest) == blob


@pytest.mark.parametrize(("error", "operations"), [(errno.EIO, OPERATIONS), (errno.EROFS, CHANGES), (errno.EIO, READS)])
async def test_a_disk_that_fails_at_the_start_stops_it_and_loses_nothing(
    path: Path, disk: FailingDisk, error: int, operations: frozenset[str]
) -> None:
    """Whichever call it is that fails first."""
    blobs = some_blobs(1)
    async with opened_store(path, FakeClock(), disk=disk) as store:
        assert await tried(store, blobs) == dict.fromkeys(blobs)
        image = path.parent.parent / "image"
        disk.inner.cut_power(image, Cut(Survival.EVERYTHING, undo_last_commit=True))
    stopped = 0
    for after in range(100):
        broken = FailingDisk(VolatileDisk(image))
        broken.fail(error, operations, after=after)
        try:
            async with opened_store(image / "store", FakeClock(), disk=broken) as store:
                broken.heal()
                assert await served(store, blobs) == blobs
        except ConfigurationError:
            stopped += 1
        if not broken.failed:
            break
    assert stopped
    async with opened_store(image / "store", FakeClock()) as store:
        assert await served(store, blobs) == blobs


@pytest.mark.parametrize(("error", "operations", "answer"), FAULTS)
async def test_a_store_can_be_closed_while_the_disk_fails(
    path: Path, disk: FailingDisk, error: int, operations: frozenset[str], answer: type[GridwrightError]
) -> None:
    kept, refused = some_blobs(1), some_blobs(2)
    async with opened_store(path, FakeClock(), disk=disk) as store:
        assert await tried(store, kept) == dict.fromkeys(kept)
        disk.fail(error, operations)
        await tried(store, refused)
    disk.heal()
    async with opened_store(path, FakeClock(), disk=disk) as store:
        assert (await served(store, kept | refused)).items() >= kept.items()


@pytest.mark.parametrize("took_effect", [False, True])
async def test_an_index_that_fails_refuses_uploads(
    tmp_path: Path, path: Path, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch, took_effect: bool
) -> None:
    """Any transaction may be the one that fails, also one that has taken effect all the same."""
    writing = Index.writing
    left = 0

    @contextmanager
    def failing(index: Index) -> Iterator[lmdb.Transaction[bytes]]:
        nonlocal left
        left -= 1
        with writing(index) as txn:
            yield txn
            if left == 0 and not took_effect:
                raise Unavailable("the index of the CAS does not answer")
        if left == 0:
            raise Unavailable("the index of the CAS does not answer")

    kept: Blobs = {}
    cuts: list[tuple[Path, Blobs]] = []
    async with opened_store(path, FakeClock(), disk=disk) as store:
        monkeypatch.setattr(Index, "writing", failing)
        for number in range(1, 12):
            blobs = some_blobs(number)
            left = number
            outcomes = await tried(store, blobs)
            left = 0
            kept |= {digest: blobs[digest] for digest, outcome in outcomes.items() if outcome is None}
            assert {type(outcome) for outcome in outcomes.values() if outcome is not None} <= {Unavailable}
            assert (await served(store, kept | blobs)).items() >= kept.items()
            cuts.append((tmp_path / str(number), dict(kept)))
            disk.inner.cut_power(cuts[-1][0], Cut(Survival.NOTHING, bool(number % 2)))
            assert await tried(store, blobs) == dict.fromkeys(blobs)
            kept |= blobs
            assert await served(store, kept) == kept
    for image, acknowledged in cuts:
        async with opened_store(image / "store", FakeClock(), durable=False) as store:
            assert await served(store, acknowledged) == acknowledged


async def test_an_index_that_cannot_grow_refuses_uploads(path: Path, disk: FailingDisk) -> None:
    """Here the kernel refuses what LMDB writes: files may not be larger than the index is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept: Blobs = {}
    blobs: Blobs = {}
    outcomes: dict[Digest, GridwrightError | None] = {}
    async with opened_store(path, FakeClock(), disk=disk) as store:
        try:
            for _ in range(100):
                blobs = {SHA256.digest(blob): blob for blob in map(os.urandom, [20] * 500)}
                outcomes = dict(await store.put_many(blobs))
                kept |= {digest: blobs[digest] for digest, outcome in outcomes.items() if outcome is None}
                resource.setrlimit(resource.RLIMIT_FSIZE, ((path / "index" / "data.mdb").stat().st_size, before[1]))
                if any(outcomes.values()):
                    break
            assert {type(outcome) for outcome in outcomes.values()} == {ResourceExhausted}
            assert await served(store, list(kept)[-600:]) == dict(list(kept.items())[-600:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert await tried(store, blobs) == dict.fromkeys(blobs)
        assert len(await store.missing(set(kept))) == 0


async def test_nothing_is_acknowledged_before_it_is_synchronised_and_in_the_index(
    store: BlobStore, disk: FailingDisk
) -> None:
    """The disk is held up in each change in turn."""
    warm = some_blobs(0)
    assert await tried(store, warm) == dict.fromkeys(warm)
    for operation in ("write", "sync"):
        for blob in (os.urandom(100), os.urandom(2 * LARGE_BYTES)):
            reached, released = threading.Event(), threading.Event()

            def hold(called: str, path: str) -> None:
                if called == operation:  # noqa: B023  # called within this round only
                    reached.set()  # noqa: B023
                    assert released.wait(10)  # noqa: B023

            disk.inner.before_change = hold
            putting = asyncio.create_task(store.put(SHA256.digest(blob), chunks_of(blob)))
            assert await asyncio.to_thread(reached.wait, 10)
            done, _ = await asyncio.wait([putting], timeout=0.05)
            assert not done
            assert await store.missing({SHA256.digest(blob)})
            released.set()
            await putting
            disk.inner.before_change = lambda operation, path: None
