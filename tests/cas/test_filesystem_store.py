"""FilesystemStore keeps the promises of a BlobStore, its bound, and whole files only."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import (
    BlobNotFound,
    ConfigurationError,
    InvalidRequest,
    ResourceExhausted,
    Unavailable,
)
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.clock import FakeClock
from gridwright.testing.eviction_contract import EvictionContract
from gridwright.testing.leaf_contract import LeafContract
from gridwright_cas.stores.blob_index import cost_of
from gridwright_cas.stores.filesystem import FilesystemStore

SHA256 = DigestFunction.SHA256
LARGE = 3 * CHUNK_BYTES


def opened(
    path: Path, clock: FakeClock | None = None, *, max_bytes: int = 2**28, durable: bool = True
) -> AbstractAsyncContextManager[FilesystemStore]:
    return FilesystemStore.opened(path, clock or FakeClock(), EvictionPolicy(max_bytes), durable=durable)


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")


def file_of(path: Path, digest: Digest) -> Path:
    return path / digest.function.name.lower() / digest.hash[:2] / f"{digest.hash}-{digest.size_bytes}"


async def kept(store: BlobStore, size: int) -> Digest:
    """Put a random blob and return its digest."""
    data = os.urandom(size)
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    return digest


class TestFilesystemStore(LeafContract, EvictionContract):
    @pytest.fixture(params=[True, False], ids=["durable", "relaxed"])
    async def store(self, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[BlobStore]:
        async with opened(tmp_path, durable=request.param) as store:
            yield store
        assert [file for file in files(tmp_path) if file.parent.name == "tmp"] == []

    @pytest.fixture
    async def bounded_store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with opened(tmp_path, max_bytes=self.capacity_bytes) as store:
            yield store


@pytest.mark.parametrize("size", [0, 1, LARGE])
async def test_blobs_survive_a_restart(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as store:
        digest = await kept(store, size)
    async with opened(tmp_path) as store:
        assert SHA256.digest(await read_all(store, digest)) == digest


async def test_a_blob_is_the_file_that_its_digest_names(tmp_path: Path) -> None:
    digest = DigestFunction.BLAKE3.digest(b"hello")
    async with opened(tmp_path) as store:
        await write_blob(store, digest, b"hello")
    assert (tmp_path / "blake3" / digest.hash[:2] / f"{digest.hash}-5").read_bytes() == b"hello"


async def test_the_empty_blob_takes_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put(SHA256.empty, chunks_of(b""))
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [100, LARGE])
async def test_an_upload_that_is_refused_leaves_no_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    async def refused() -> AsyncIterator[bytes]:
        async for chunk in chunks_of(data):
            yield chunk
        raise InvalidRequest("these bytes are wrong")

    async with opened(tmp_path) as store:
        with pytest.raises(InvalidRequest, match="these bytes are wrong"):
            await store.put(SHA256.digest(data), refused())
        assert files(tmp_path) == []
        assert store._index.used_bytes == 0


@pytest.mark.parametrize("size", [0, 99, 101, LARGE - 1, LARGE + 1])
async def test_bytes_of_another_length_than_their_digest_are_in_a_file_that_says_so(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    digest = SHA256.digest(os.urandom(5))._replace(size_bytes=100)
    async with opened(tmp_path) as store:
        await store.put(digest, chunks_of(data))
        (file,) = files(tmp_path)
        assert file.name == f"{digest.hash}-100.{size}"
        assert store._index.used_bytes == cost_of(size)
    async with opened(tmp_path) as store:
        assert await read_all(store, digest) == data
        assert await read_all(store, digest, offset=-10) == data[-10:]
        assert store._index.used_bytes == cost_of(size)


async def test_the_same_blob_stored_in_two_lengths_at_once_leaves_one_file(tmp_path: Path) -> None:
    digest = SHA256.digest(b"x")
    started = asyncio.Barrier(2)

    async def held(data: bytes) -> AsyncIterator[bytes]:
        yield data
        await started.wait()

    short, long = os.urandom(CHUNK_BYTES + 1), os.urandom(CHUNK_BYTES + 5000)
    async with opened(tmp_path) as store:
        await asyncio.gather(store.put(digest, held(short)), store.put(digest, held(long)))
        (file,) = files(tmp_path)
        assert await read_all(store, digest) == file.read_bytes()
        assert store._index.used_bytes == cost_of(file.stat().st_size)


async def test_blobs_that_nobody_used_for_too_long_go_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_cas.stores.filesystem._TIDY_SECONDS", 0.02)
    clock = FakeClock()
    async with FilesystemStore.opened(tmp_path, clock, EvictionPolicy(max_seconds=100)) as store:
        old = await kept(store, 10)
        clock.advance(60)
        young = await kept(store, 10)
        gone = asyncio.get_running_loop().create_future()
        store.on_removal(gone.set_result)
        clock.advance(60)
        async with asyncio.timeout(5):
            assert set(await gone) == {old}
        assert await store.missing({old, young}) == {old}
        assert files(tmp_path) == [file_of(tmp_path, young)]


async def test_blobs_that_expired_while_the_store_was_closed_are_gone(tmp_path: Path) -> None:
    clock = FakeClock()
    policy = EvictionPolicy(max_seconds=100)
    async with FilesystemStore.opened(tmp_path, clock, policy) as store:
        old = await kept(store, 10)
        os.utime(file_of(tmp_path, old), (clock.now() - 90, clock.now() - 90))
    clock.advance(20)
    async with FilesystemStore.opened(tmp_path, clock, policy) as store:
        assert await store.missing({old}) == {old}
        assert files(tmp_path) == []


async def test_at_most_so_many_blobs_are_kept(tmp_path: Path) -> None:
    async with FilesystemStore.opened(tmp_path, FakeClock(), EvictionPolicy(max_count=3)) as store:
        digests = [await kept(store, size) for size in (10, 10, LARGE, 10, 10)]
        assert await store.missing(set(digests)) == set(digests[:2])
        assert len(files(tmp_path)) == 3


async def test_eviction_makes_as_much_room_as_it_is_told(tmp_path: Path) -> None:
    policy = EvictionPolicy(max_bytes=10 * 4096, evict_bytes=5 * 4096)
    async with FilesystemStore.opened(tmp_path, FakeClock(), policy) as store:
        digests = [await kept(store, 4096) for _ in range(11)]
        assert await store.missing(set(digests)) == set(digests[:6])


async def test_uploads_are_written_where_the_operator_says(tmp_path: Path) -> None:
    content, temp = tmp_path / "content", tmp_path / "temp"
    temp.mkdir()
    (temp / "notes").write_text("of somebody else")
    (temp / "17").write_bytes(b"half an upload")

    async def watched() -> AsyncIterator[bytes]:
        yield os.urandom(2 * CHUNK_BYTES)
        while len(files(temp)) < 2:  # noqa: ASYNC110  # the file system announces nothing
            await asyncio.sleep(0)
        yield b"x"

    async with FilesystemStore.opened(content, FakeClock(), EvictionPolicy(), temp_path=temp) as store:
        assert files(temp) == [temp / "notes"]
        async with asyncio.timeout(5):
            await store.put(SHA256.digest(b"x"), watched())
        assert files(temp) == [temp / "notes"]
        with pytest.raises(ConfigurationError, match="another process"):
            async with FilesystemStore.opened(tmp_path / "other", FakeClock(), EvictionPolicy(), temp_path=temp):
                pass


@pytest.mark.may_skip("it takes two file systems")
async def test_a_temporary_directory_on_another_file_system_is_refused(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm") / tmp_path.name
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("the tests' directory is in memory")
    with pytest.raises(ConfigurationError, match="not on the file system"):
        async with FilesystemStore.opened(tmp_path, FakeClock(), EvictionPolicy(), temp_path=elsewhere):
            pass
    (elsewhere / "lock").unlink()
    elsewhere.rmdir()
    async with opened(tmp_path):
        pass  # nothing stays locked


async def test_uploads_cut_at_any_moment_leave_no_file_and_no_reservation(tmp_path: Path) -> None:
    data = os.urandom(4 * CHUNK_BYTES)
    digest = SHA256.digest(data)
    async with opened(tmp_path) as store:
        for steps in range(60):
            upload = asyncio.create_task(store.put(digest, chunks_of(data, 2**18)))
            for _ in range(steps):
                await asyncio.sleep(0)
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        if await store.missing({digest}):
            assert files(tmp_path) == []
            assert store._index.used_bytes == 0
        else:
            assert await read_all(store, digest) == data
    assert [file for file in files(tmp_path) if file.parent.name == "tmp"] == []


async def test_readers_that_leave_close_their_files(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        digest = await kept(store, 8 * CHUNK_BYTES)
        before = len(os.listdir("/proc/self/fd"))
        for steps in range(60):
            reader = asyncio.create_task(read_all(store, digest))
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
    assert len(os.listdir("/proc/self/fd")) < before


async def test_leftovers_and_torn_files_are_gone_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        whole, torn = await kept(store, 100), await kept(store, 100)
    (tmp_path / "tmp" / "17").write_bytes(b"half an upload")
    file_of(tmp_path, torn).write_bytes(b"what a power cut left")
    async with opened(tmp_path) as store:
        assert await store.missing({whole, torn}) == {torn}
    assert files(tmp_path) == [file_of(tmp_path, whole)]


async def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    foreign = [tmp_path / "README", tmp_path / "sha256" / "notes", tmp_path / "sha256" / "ab" / "cafe-12"]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not a blob")
    async with opened(tmp_path):
        pass
    assert files(tmp_path) == sorted(foreign)


async def test_a_file_that_somebody_removed_is_not_found_and_can_be_put_again(tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    digest = SHA256.digest(data)
    async with opened(tmp_path) as store:
        for lose in (Path.unlink, lambda file: os.truncate(file, 5)):
            await store.put(digest, chunks_of(data))
            lose(file_of(tmp_path, digest))
            with pytest.raises(BlobNotFound):
                await read_all(store, digest)
            assert await store.missing({digest}) == {digest}
        await store.put(digest, chunks_of(data))
        file_of(tmp_path, digest).unlink()
        assert isinstance((await store.get_many([digest]))[digest], BlobNotFound)
        assert store._index.used_bytes == 0


async def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(ConfigurationError, match="another process"):
            async with opened(tmp_path):
                pass


async def test_a_path_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot keep blobs"):
        async with opened(tmp_path / "file"):
            pass


async def test_the_bound_holds_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=40_960) as store:
        old = [await kept(store, 4096) for _ in range(10)]
        used = set(old[:3])
        assert await store.missing(used) == set()
        new = [await kept(store, 4096) for _ in range(5)]
        assert await store.missing({*old, *new}) == set(old[3:8])
        assert sum(file.stat().st_size for file in files(tmp_path)) == 40_960


async def test_a_bulk_larger_than_the_store_keeps_the_bound(tmp_path: Path) -> None:
    blobs = {SHA256.digest(data): data for data in (os.urandom(4096) for _ in range(1000))}
    # Of one batch, at most 8 * 64 files are being written at the same time.
    async with opened(tmp_path, max_bytes=600 * 4096) as store:
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert len(files(tmp_path)) == len(blobs) - len(await store.missing(set(blobs))) == 600


async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock) as store:
        first, second, third = [await kept(store, 4096) for _ in range(3)]
        for seconds, digest in enumerate((first, second, third)):
            os.utime(file_of(tmp_path, digest), (clock.now() + seconds, clock.now() + seconds))
        clock.advance(3600)
        assert await read_blob(store, first)
    async with opened(tmp_path, clock, max_bytes=2 * 4096) as store:
        assert await store.missing({first, second, third}) == {second}


async def test_uses_are_written_down_while_the_store_runs(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock) as store:
        digest = await kept(store, 10)
        clock.advance(3600)
        await store.missing({digest})
        store._threads.shutdown()  # waits for what was handed to threads
        assert file_of(tmp_path, digest).stat().st_mtime == clock.now()


async def test_a_read_that_has_begun_ends_well_when_its_blob_is_evicted(tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    digest = SHA256.digest(data)
    async with opened(tmp_path, max_bytes=LARGE + 4096) as store:
        await store.put(digest, chunks_of(data))
        reading = store.get(digest)
        first = await anext(reading)
        await kept(store, 8192)
        assert await store.missing({digest}) == {digest}
        assert first + b"".join([chunk async for chunk in reading]) == data


async def test_a_blob_larger_than_the_store_is_refused_before_a_byte_of_it_is_read(tmp_path: Path) -> None:
    asked = False

    async def watched() -> AsyncIterator[bytes]:
        nonlocal asked
        asked = True
        yield b"x"

    async with opened(tmp_path, max_bytes=LARGE) as store:
        keeper = await kept(store, 100)
        with pytest.raises(ResourceExhausted):
            await store.put(SHA256.digest(b"x")._replace(size_bytes=LARGE + 1), watched())
        assert not asked
        assert await store.missing({keeper}) == set()


async def test_an_upload_that_finds_the_store_full_of_other_uploads_is_refused_and_they_are_not(tmp_path: Path) -> None:
    first, second = os.urandom(5 * CHUNK_BYTES), os.urandom(5 * CHUNK_BYTES)
    arrived, release = asyncio.Event(), asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        async for chunk in chunks_of(first[:-1], CHUNK_BYTES):
            yield chunk
        arrived.set()
        await release.wait()
        yield first[-1:]

    async with opened(tmp_path, max_bytes=6 * CHUNK_BYTES) as store:
        upload = asyncio.create_task(store.put(SHA256.digest(first), held()))
        await arrived.wait()
        with pytest.raises(ResourceExhausted) as refused:
            await store.put(SHA256.digest(second), chunks_of(second))
        assert refused.value.retry_after_seconds is not None
        release.set()
        await upload
        assert files(tmp_path) == [file_of(tmp_path, SHA256.digest(first))]


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, ResourceExhausted), (errno.EIO, Unavailable)])
async def test_what_the_disk_refuses_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception], bulk: bool
) -> None:
    real = os.writev
    written = 0

    def fails_later(descriptor: int, buffers: Sequence[bytes]) -> int:
        nonlocal written
        if written >= 2 or bulk:
            raise OSError(number, os.strerror(number))
        written += 1
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "writev", fails_later)
    data = os.urandom(100 if bulk else 4 * CHUNK_BYTES)
    digest = SHA256.digest(data)
    async with opened(tmp_path) as store:
        if bulk:
            assert isinstance((await store.put_many({digest: data}))[digest], expected)
        else:
            with pytest.raises(expected):
                await store.put(digest, chunks_of(data))
        assert await store.missing({digest}) == {digest}
        assert files(tmp_path) == []
        assert store._index.used_bytes == 0


async def test_a_disk_that_fails_on_reading_is_unavailable_and_not_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with opened(tmp_path) as store:
        small, large = await kept(store, 10), await kept(store, LARGE)
        monkeypatch.setattr(os, "pread", fails)
        for digest in (small, large):
            with pytest.raises(Unavailable):
                await read_all(store, digest)
            assert isinstance((await store.get_many([digest]))[digest], Unavailable)
        assert await store.missing({small, large}) == set()
        monkeypatch.undo()
        assert SHA256.digest(await read_all(store, large)) == large


async def test_short_writes_of_the_kernel_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def short(descriptor: int, buffers: Sequence[bytes]) -> int:
        return real(descriptor, [bytes(buffers[0])[:70_001]])

    monkeypatch.setattr(os, "writev", short)
    async with opened(tmp_path) as store:
        data = os.urandom(2 * CHUNK_BYTES + 5)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data, 100_000))
        assert await read_all(store, digest) == data


async def test_uploads_in_thousands_of_tiny_chunks_work(tmp_path: Path) -> None:
    data = os.urandom(CHUNK_BYTES + 4000)
    async with opened(tmp_path) as store:
        await store.put(SHA256.digest(data), chunks_of(data, 300))
        assert await read_all(store, SHA256.digest(data)) == data


async def test_evicting_and_putting_the_same_blobs_again_never_leaves_index_and_disk_apart(tmp_path: Path) -> None:
    blobs = {SHA256.digest(data): data for data in (os.urandom(4096) for _ in range(20))}
    async with opened(tmp_path, max_bytes=10 * 4096, durable=False) as store:

        async def churn(start: int) -> None:
            for turn in range(40):
                digest = list(blobs)[(start + 7 * turn) % len(blobs)]
                await write_blob(store, digest, blobs[digest])

        await asyncio.gather(*(churn(start) for start in range(8)))
        there = set(blobs) - await store.missing(set(blobs))
        assert {file_of(tmp_path, digest) for digest in there} == set(files(tmp_path))
        assert await store.get_many(there) == {digest: blobs[digest] for digest in there}
