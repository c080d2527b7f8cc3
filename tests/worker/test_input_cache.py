"""The cache of input files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest
from gridwright.errors import FailedPrecondition, GridwrightError, InternalError, MissingBlobs, Unavailable
from gridwright_worker.execution.inputs.cache import InputCache
from gridwright_worker.execution.inputs.files import CacheFiles
from gridwright_worker.execution.inputs.tree import InputFile
from tests.worker.actions import SHA256, make_bench

LARGE = 2 * 1024 * 1024


class CountingStore(MemoryStore):
    """Counts downloads, and holds them back, or fails them, on demand."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**30)
        self.downloaded: list[Digest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        self.downloaded.append(digest)
        await self._pass()
        async for chunk in super().get(digest, offset=offset, limit=limit):
            yield chunk

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        self.downloaded += digests
        await self._pass()
        return await super().get_many(digests)

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


async def opened(directory: Path, store: MemoryStore, max_bytes: int = 2**30) -> InputCache:
    cache = InputCache(CacheFiles(directory / "cache"), store, max_bytes=max_bytes)
    await cache.open()
    return cache


async def kept(store: MemoryStore, data: bytes, *, is_executable: bool = False) -> InputFile:
    await write_blob(store, SHA256.digest(data), data)
    return InputFile(SHA256.digest(data), is_executable)


def text_of(cache: InputCache, file: InputFile) -> bytes:
    return Path(cache.path(file)).read_bytes()


def is_there(cache: InputCache, file: InputFile) -> bool:
    return Path(cache.path(file)).exists()


def spoil(path: Path, damage: str) -> None:
    match damage:
        case "truncate":
            os.truncate(path, 2)
        case "append":
            path.chmod(0o644)
            path.write_bytes(b"bad!")
            path.chmod(0o444)
        case "chmod":
            path.chmod(0o777)
        case "touch":
            os.utime(path)
        case _:
            path.unlink()


async def test_files_have_their_bytes_and_their_mode(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store)
    contents = {b"": False, b"small": False, b"tool": True, os.urandom(LARGE): True}
    files = {await kept(store, data, is_executable=bit): data for data, bit in contents.items()}
    async with cache.holding(files.keys()):
        for file, data in files.items():
            assert text_of(cache, file) == data
            assert os.stat(cache.path(file)).st_mode & 0o777 == (0o555 if file.is_executable else 0o444)


@pytest.mark.parametrize("size", [10, LARGE])
async def test_both_values_of_the_executable_bit_cost_one_download(
    tmp_path: Path, store: CountingStore, size: int
) -> None:
    cache = await opened(tmp_path, store)
    plain = await kept(store, os.urandom(size))
    tool = plain._replace(is_executable=True)
    async with cache.holding([plain, tool]):
        assert text_of(cache, plain) == text_of(cache, tool)
        assert os.stat(cache.path(plain)).st_ino != os.stat(cache.path(tool)).st_ino
    assert store.downloaded == [plain.digest]


@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_blob_is_downloaded_once_however_many_want_it(tmp_path: Path, store: CountingStore, size: int) -> None:
    cache = await opened(tmp_path, store)
    file = await kept(store, os.urandom(size))
    store.gate.clear()

    async def use() -> bytes:
        async with cache.holding([file]):
            return text_of(cache, file)

    users = [asyncio.create_task(use()) for _ in range(5)]
    await asyncio.sleep(0)
    store.gate.set()
    assert len(set(await asyncio.gather(*users))) == 1
    assert len(store.downloaded) == 1


async def test_who_waits_for_anothers_download_does_not_fail_with_it(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store)
    file = await kept(store, b"data")
    store.gate.clear()
    store.failures = 1

    async def use() -> bytes:
        async with cache.holding([file]):
            return text_of(cache, file)

    first, second = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(Unavailable):
        await first
    assert await second == b"data"


async def test_who_waits_for_a_download_that_is_given_up_takes_it_over(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store)
    file = await kept(store, os.urandom(LARGE))
    store.gate.clear()

    async def use() -> None:
        async with cache.holding([file]):
            pass

    first, second = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    await second
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


async def test_what_was_cached_is_there_after_a_restart(tmp_path: Path, store: CountingStore) -> None:
    files = [await kept(store, b"a"), await kept(store, b"b", is_executable=True)]
    cache = await opened(tmp_path, store)
    async with cache.holding(files):
        pass
    store.downloaded.clear()
    again = await opened(tmp_path, store)
    assert again.statistics().used_bytes == cache.statistics().used_bytes
    async with again.holding(files):
        assert text_of(again, files[1]) == b"b"
    assert store.downloaded == []


async def test_files_from_before_a_boot_are_not_trusted(tmp_path: Path, store: CountingStore) -> None:
    file = await kept(store, b"a")
    async with (await opened(tmp_path, store)).holding([file]):
        pass
    (tmp_path / "cache" / "boot").write_text("another boot")
    assert (await opened(tmp_path, store)).statistics().files == 0


async def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path, store: CountingStore) -> None:
    files = [await kept(store, f"{number}".encode()) for number in range(4)]
    cache = await opened(tmp_path, store)
    for file in files[:3]:
        async with cache.holding([file]):
            pass
    # A use leaves its mark by the hard link that an action makes, on a clock that ticks every few milliseconds.
    await asyncio.sleep(0.03)
    os.link(cache.path(files[0]), tmp_path / "link")
    cache = await opened(tmp_path, store, max_bytes=3 * (4096 + 256))
    async with cache.holding([files[3]]):
        pass
    assert [is_there(cache, file) for file in files] == [True, False, True, True]


async def test_what_an_action_uses_is_never_evicted(tmp_path: Path, store: CountingStore) -> None:
    files = [await kept(store, f"{number}".encode()) for number in range(3)]
    cache = await opened(tmp_path, store, max_bytes=2 * (4096 + 256))
    async with cache.holding([files[0]]):
        for file in files[1:]:
            async with cache.holding([file]):
                pass
        assert is_there(cache, files[0])
        assert not is_there(cache, files[1])
        waiting = asyncio.create_task(enter(cache, files[1:]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await waiting


async def enter(cache: InputCache, files: list[InputFile]) -> None:
    async with cache.holding(files):
        pass


async def test_inputs_larger_than_the_cache_are_refused(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store, max_bytes=10_000)
    with pytest.raises(FailedPrecondition, match="cache_max_bytes"):
        await enter(cache, [await kept(store, bytes(20_000))])


async def test_all_that_is_missing_is_named(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store)
    lost = [InputFile(SHA256.digest(bytes(size)), False) for size in (1, 2, LARGE)]
    with pytest.raises(MissingBlobs) as raised:
        await enter(cache, [*lost, await kept(store, b"here")])
    assert set(raised.value.digests) == {file.digest for file in lost}
    assert cache.statistics().files == 1
    assert cache.statistics().pinned_files == 0


@pytest.mark.parametrize("size", [10, LARGE])
async def test_wrong_bytes_from_the_cas_are_not_kept(tmp_path: Path, store: CountingStore, size: int) -> None:
    cache = await opened(tmp_path, store)
    digest = SHA256.digest(os.urandom(size))
    await write_blob(store, digest, os.urandom(size))
    with pytest.raises(InternalError, match="other bytes"):
        await enter(cache, [InputFile(digest, False)])
    assert cache.statistics().files == 0


@pytest.mark.parametrize("damage", ["truncate", "append", "chmod", "touch", "remove"])
async def test_a_file_that_is_not_what_it_was_is_fetched_again(
    tmp_path: Path, store: CountingStore, damage: str
) -> None:
    cache = await opened(tmp_path, store)
    file = await kept(store, b"good")
    await enter(cache, [file])
    spoil(Path(cache.path(file)), damage)
    async with cache.holding([file]):
        assert text_of(cache, file) == b"good"
    assert len(store.downloaded) == 2


async def test_files_of_the_wrong_size_are_not_taken_over_by_a_restart(tmp_path: Path, store: CountingStore) -> None:
    cache = await opened(tmp_path, store)
    file = await kept(store, b"good")
    await enter(cache, [file])
    os.truncate(cache.path(file), 1)
    (Path(cache.path(file)).parent / "rubbish").write_text("")
    assert (await opened(tmp_path, store)).statistics().files == 0


async def test_where_no_more_hard_links_are_possible_files_are_copied(tmp_path: Path) -> None:
    links = 0

    def two_at_most(source: str, target: str) -> None:
        nonlocal links
        links += 1
        if links > 2:
            raise OSError(errno.EMLINK, "Too many links")
        os.link(source, target)

    bench = make_bench(tmp_path, link=two_at_most)
    await bench.cache.open()
    done = await bench.execute("cat a b c d; stat -c %a d", dict.fromkeys("abcd", "x"))
    assert await done.stdout() == "xxxx444\n"
    assert links == 4
    await bench.executor.close()
