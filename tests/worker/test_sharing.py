"""Inputs that one action changes while another has them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, Unavailable
from gridwright_worker.execution.inputs.cache import InputCache
from gridwright_worker.execution.inputs.files import CacheFiles
from gridwright_worker.execution.inputs.sharing import Sharing
from gridwright_worker.execution.inputs.tree import InputFile
from tests.worker.actions import SHA256, Bench, make_bench
from tests.worker.processes import until

INPUTS = {"f": "good\n"}
SPOIL = "chmod u+w f; echo EVIL >> f"


class Signal:
    """A word from one process to another, through a FIFO whose opening never blocks."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.give = f"echo go >> {path}"
        self.wait = f"read word < {path}"

    def send(self) -> None:
        os.write(self._descriptor, b"go\n")

    async def arrived(self) -> None:
        def read() -> bool:
            try:
                return bool(os.read(self._descriptor, 3))
            except BlockingIOError:
                return False

        await until(read)

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def signals(directory: Path, count: int) -> Iterator[list[Signal]]:
    opened = [Signal(directory / f"signal{number}") for number in range(count)]
    try:
        yield opened
    finally:
        for signal in opened:
            signal.close()


@pytest.fixture
async def beside(bench: Bench) -> AsyncIterator[Bench]:
    neighbour = bench.neighbour()
    yield neighbour
    await neighbour.executor.close()


async def both_are_right(bench: Bench, beside: Bench) -> None:
    """Run victim and tamperer again, at the same time."""
    with signals(bench.directory / "slots", 2) as (ready, spoilt):
        victim, tamperer = await asyncio.gather(
            bench.execute(f"{ready.give}; {spoilt.wait}; cat f; stat -c %h f", INPUTS),
            beside.execute(f"{ready.wait}; stat -c %h f; {SPOIL}; {spoilt.give}; cat f", INPUTS),
        )
    assert await victim.stdout() == "good\n1\n"
    assert await tamperer.stdout() == "1\ngood\nEVIL\n"


async def test_who_read_what_another_action_changed_is_not_believed(
    bench: Bench, beside: Bench, tmp_path: Path
) -> None:
    """The tamperer ends first: by then the cache has forgotten the file that the victim still has."""
    with signals(tmp_path, 2) as (ready, go):
        victim = asyncio.create_task(bench.execute(f"{ready.give}; {go.wait}; cat f", INPUTS))
        with pytest.raises(Unavailable, match="beside this one"):
            await beside.execute(f"{ready.wait}; {SPOIL}", INPUTS)
        go.send()
        with pytest.raises(Unavailable, match="beside this one"):
            await victim
    await both_are_right(bench, beside)


async def test_who_ends_before_the_tamperer_is_not_believed_either(bench: Bench, beside: Bench, tmp_path: Path) -> None:
    with signals(tmp_path, 3) as (ready, spoilt, go):
        tamperer = asyncio.create_task(beside.execute(f"{ready.wait}; {SPOIL}; {spoilt.give}; {go.wait}", INPUTS))
        with pytest.raises(Unavailable, match="beside this one"):
            await bench.execute(f"{ready.give}; {spoilt.wait}; cat f", INPUTS)
        go.send()
        with pytest.raises(Unavailable, match="beside this one"):
            await tamperer
    await both_are_right(bench, beside)


async def test_who_ends_before_anything_changes_is_believed(bench: Bench, beside: Bench, tmp_path: Path) -> None:
    with signals(tmp_path, 2) as (ready, go):
        tamperer = asyncio.create_task(beside.execute(f"{ready.give}; {go.wait}; {SPOIL}", INPUTS))
        early = await bench.execute(f"{ready.wait}; cat f", INPUTS)
        assert await early.stdout() == "good\n"
        go.send()
        with pytest.raises(Unavailable):
            await tamperer


async def test_who_begins_after_the_change_gets_the_right_bytes_at_once(
    bench: Bench, beside: Bench, tmp_path: Path
) -> None:
    with signals(tmp_path, 2) as (spoilt, go):
        tamperer = asyncio.create_task(beside.execute(f"{SPOIL}; {spoilt.give}; {go.wait}", INPUTS))
        await spoilt.arrived()
        late = await bench.execute("cat f; stat -c %h f", INPUTS)
        assert await late.stdout() == "good\n1\n"
        go.send()
        with pytest.raises(Unavailable):
            await tamperer


async def test_an_error_that_a_changed_input_can_have_caused_is_not_believed(
    bench: Bench, beside: Bench, tmp_path: Path
) -> None:
    with signals(tmp_path, 2) as (ready, go):
        victim = asyncio.create_task(
            bench.execute(f"{ready.give}; {go.wait}; grep -q EVIL f && mkfifo out", INPUTS, output_paths=["out"])
        )
        with pytest.raises(Unavailable):
            await beside.execute(f"{ready.wait}; {SPOIL}", INPUTS)
        go.send()
        with pytest.raises(Unavailable, match="beside this one"):
            await victim


async def test_a_tamperer_that_is_given_up_is_noticed_too(bench: Bench, beside: Bench, tmp_path: Path) -> None:
    with signals(tmp_path, 3) as (ready, spoilt, go):
        victim = asyncio.create_task(bench.execute(f"{ready.give}; {go.wait}; cat f", INPUTS))
        tamperer = asyncio.create_task(beside.execute(f"{ready.wait}; {SPOIL}; {spoilt.give}; sleep 1000", INPUTS))
        await spoilt.arrived()
        tamperer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tamperer
        go.send()
        with pytest.raises(Unavailable, match="beside this one"):
            await victim


async def test_who_had_an_input_alone_may_have_changed_it(bench: Bench) -> None:
    done = await bench.execute(f"stat -c %h f; {SPOIL}; cat f", INPUTS, output_paths=["f"])
    assert await done.stdout() == "2\ngood\nEVIL\n"
    assert await done.files() == {"f": "good\nEVIL\n"}
    # The next have copies, also of the other value of the executable bit, and others that stay links.
    for _ in range(2):
        done = await bench.execute(f"cat f; stat -c '%h %a %Y' f; stat -c %h g; {SPOIL}", {**INPUTS, "g": "other"})
        assert await done.stdout() == "good\n1 444 1262304000\n2\n"


async def test_actions_that_change_nothing_share_links(bench: Bench, beside: Bench, tmp_path: Path) -> None:
    with signals(tmp_path, 2) as (ready, go):
        first = asyncio.create_task(bench.execute(f"{ready.give}; {go.wait}; rm f", INPUTS))
        second = await beside.execute(f"{ready.wait}; stat -c %h f; {go.give}", INPUTS)
        assert await second.stdout() == "3\n"
        assert (await first).exit_code == 0
    assert await (await bench.execute("stat -c %h f", INPUTS)).stdout() == "2\n"


class SlowStore(MemoryStore):
    """Holds uploads and large downloads back on demand."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**30)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def _pass(self) -> None:
        if not self.gate.is_set():
            self.reached.set()
        await self.gate.wait()

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        await self._pass()
        async for chunk in super().get(digest, offset=offset, limit=limit):
            yield chunk

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        await self._pass()
        return await super().put_many(blobs)


async def test_inputs_are_watched_until_the_outputs_are_uploaded(tmp_path: Path) -> None:
    """An output can be an input: what is read for the upload must be what was hashed."""
    store = SlowStore()
    bench = make_bench(tmp_path, store=store)
    await bench.cache.open()
    beside = bench.neighbour()
    await bench.execute("true", INPUTS)
    with signals(tmp_path, 4) as (ready, go, linked, end):
        tamperer = asyncio.create_task(beside.execute(f"{ready.give}; {go.wait}; {SPOIL}", INPUTS))
        await ready.arrived()
        line = f"ln f out; {linked.give}; {end.wait}"
        victim = asyncio.create_task(bench.execute(line, INPUTS, output_paths=["out"]))
        # The documents of both have been uploaded: what is held back are outputs.
        await linked.arrived()
        store.gate.clear()
        end.send()
        await store.reached.wait()
        go.send()
        with pytest.raises(Unavailable, match="beside this one"):
            await tamperer
        store.gate.set()
        with pytest.raises(Unavailable, match="beside this one"):
            await victim
    await bench.executor.close()
    await beside.executor.close()


async def test_a_file_may_change_while_another_action_still_waits_for_others(tmp_path: Path) -> None:
    store = SlowStore()
    cache = InputCache(CacheFiles(tmp_path / "cache"), store, max_bytes=2**30)
    await cache.open()
    small, large = (InputFile(SHA256.digest(data), False) for data in (b"small", bytes(2 * 1024 * 1024)))
    await write_blob(store, small.digest, b"small")
    await write_blob(store, large.digest, bytes(2 * 1024 * 1024))
    store.gate.clear()

    async def use(files: Collection[InputFile]) -> list[bytes]:
        async with cache.holding(files):
            return [read(cache, file) for file in files]

    waiting = asyncio.create_task(use([small, large]))
    await until(lambda: cache.statistics().files == 1)
    async with cache.holding([small]):
        spoil(cache, small)
    assert cache.statistics().files == 0
    assert await use([small]) == [b"small"]
    store.gate.set()
    assert await waiting == [b"small", bytes(2 * 1024 * 1024)]
    assert cache.statistics().pinned_files == 0


def read(cache: InputCache, file: InputFile) -> bytes:
    return Path(cache.path(file)).read_bytes()


def spoil(cache: InputCache, file: InputFile) -> None:
    path = Path(cache.path(file))
    path.chmod(0o644)
    path.write_bytes(b"wrong")


def files(count: int) -> list[InputFile]:
    return [InputFile(SHA256.digest(f"{number}".encode()), False) for number in range(count)]


def test_what_is_remembered_is_bounded_and_the_least_recently_used_goes() -> None:
    sharing = Sharing(max_private=2)
    first, second, third = files(3)
    begun = sharing.begin([first, second, third])
    sharing.changed([first, second])
    sharing.end([first, second, third], begun)
    begun = sharing.begin([first, third])
    sharing.changed([third])
    assert sharing.end([first, third], begun) == []
    assert [sharing.is_private(file) for file in (first, second, third)] == [True, False, True]


def test_what_changed_with_nobody_there_was_no_actions_doing() -> None:
    sharing = Sharing()
    [file] = files(1)
    sharing.changed([file])
    assert not sharing.is_private(file)
    assert sharing.end([file], sharing.begin([file])) == []


def test_a_holder_that_has_left_again_was_there() -> None:
    sharing = Sharing()
    [file] = files(1)
    long = sharing.begin([file])
    assert sharing.end([file], sharing.begin([file])) == []
    sharing.changed([file])
    assert sharing.end([file], long) == [file]
