"""A process that stands still while it writes keeps nobody waiting for ever, and is named."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import Unavailable
from gridwright_cas.stores.segments import writer_lock
from gridwright_cas.stores.segments.store import SegmentStore
from gridwright_cas.stores.segments.writer_lock import WriterLock
from tests.cas.segments.segment_stores import opened_store, served

SHA256 = DigestFunction.SHA256

_WRITER = """
import sys
from pathlib import Path
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.index import Index
index = Index.open(Path(sys.argv[1]), SystemDisk())
for line in sys.stdin:
    with index.writing() as txn:
        txn.put(b"a key", b"a value", db=index.counters)
        print("writing", flush=True)
        sys.stdin.readline()
    print("written", flush=True)
"""


class Writer:
    """Another process, which begins to write and ends when it is told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def told(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def said(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def stop(self) -> None:
        """Stop it (SIGSTOP), and return when it is."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)


@contextmanager
def writer(index: Path) -> Iterator[Writer]:
    command = [sys.executable, "-c", _WRITER, str(index)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        one = Writer(process)
        try:
            one.told()
            assert one.said() == b"writing\n"
            yield one
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_lock, "_PATIENCE_SECONDS", 0.3)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SegmentStore]:
    async with opened_store(tmp_path, SystemClock()) as store:
        yield store


async def put(store: SegmentStore) -> None:
    blob = os.urandom(100)
    digest = SHA256.digest(blob)
    async with asyncio.timeout(30):
        if error := (await store.put_many({digest: blob}))[digest]:
            raise error
        assert await served(store, [digest]) == {digest: blob}


async def test_uploads_fail_while_a_writer_is_stopped_and_succeed_when_it_goes_on(
    tmp_path: Path, store: SegmentStore
) -> None:
    kept = os.urandom(100)
    await store.put_many({SHA256.digest(kept): kept})
    with writer(tmp_path / "index") as other:
        other.stop()
        for _ in range(5):
            with pytest.raises(Unavailable, match=f"process {other.process.pid} was stopped") as refused:
                await put(store)
            assert refused.value.retry_after_seconds
        assert str(other.process.pid) in (store.engine.trouble() or "")
        assert await served(store, [SHA256.digest(kept)]) == {SHA256.digest(kept): kept}
        other.process.send_signal(signal.SIGCONT)
        other.told()
        assert other.said() == b"written\n"
        assert store.engine.trouble() is None
        await put(store)


async def test_uploads_succeed_when_a_writer_that_was_stopped_dies(tmp_path: Path, store: SegmentStore) -> None:
    with writer(tmp_path / "index") as other:
        other.stop()
        with pytest.raises(Unavailable):
            await put(store)
        other.process.kill()
        other.process.wait()
        await put(store)
        assert store.engine.trouble() is None


async def test_large_uploads_fail_too(tmp_path: Path, store: SegmentStore) -> None:
    blob = bytes(2 * 2**20)
    with writer(tmp_path / "index") as other:
        other.stop()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(30):
                await store.put(SHA256.digest(blob), _chunks(blob))


async def test_a_store_closes_while_a_writer_is_stopped(tmp_path: Path) -> None:
    with writer(tmp_path / "index") as other:
        other.told()
        assert other.said() == b"written\n"
        async with asyncio.timeout(60), opened_store(tmp_path, SystemClock()) as store:
            await put(store)
            other.told()
            assert other.said() == b"writing\n"
            other.stop()


def test_a_store_that_is_opened_while_a_writer_is_stopped_says_so(tmp_path: Path) -> None:
    with writer(tmp_path / "index") as other:
        other.stop()
        command = [sys.executable, "-c", _OPENER, str(tmp_path)]
        # In a process of its own, since LMDB's lock would hold this one for ever.
        opened = subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=True)
        assert b"process %d was stopped" % other.process.pid in opened.stdout
        assert b"end all that use it" in opened.stdout


_OPENER = """
import sys
from pathlib import Path
from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError
from gridwright_cas.stores.segments import writer_lock
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
writer_lock._PATIENCE_SECONDS = 0.3
try:
    Engine.open(Path(sys.argv[1]), SystemClock(), SegmentSettings(EvictionPolicy(max_bytes=2**26)))
except ConfigurationError as error:
    print(error)
"""


def test_who_is_next_and_stands_still_is_named_too(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    command = [sys.executable, "-c", _NEXT_ONE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        one = Writer(process)
        try:
            assert one.said() == b"next\n"
            one.stop()
            with pytest.raises(Unavailable, match=f"process {process.pid} was stopped"), lock.held():
                pass
        finally:
            process.kill()
    with lock.held():
        assert lock.trouble() is None
    lock.close()


_NEXT_ONE = """
import sys
from pathlib import Path
from gridwright_cas.stores.segments.writer_lock import _NEXT, WriterLock
WriterLock(Path(sys.argv[1]))._lock_byte(_NEXT, 0.0)
print("next", flush=True)
sys.stdin.read()
"""


def test_who_has_just_written_lets_others_go_first(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    command = [sys.executable, "-c", _BUSY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == b"busy\n"
        for _ in range(20):
            with lock.held():
                continue
        busy.kill()
    lock.close()


_BUSY = """
import sys, time
from pathlib import Path
from gridwright_cas.stores.segments.writer_lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("busy", flush=True)
while True:
    with lock.held():
        time.sleep(0.002)
"""


def test_threads_of_one_process_take_turns_and_do_not_wait_for_ever(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    begun, end = threading.Event(), threading.Event()

    def write() -> None:
        with lock.held():
            begun.set()
            end.wait(30)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(30)
    with pytest.raises(Unavailable, match="another thread"), lock.held():
        pass
    end.set()
    thread.join()
    with lock.held():
        assert lock.trouble() is None
    lock.close()


async def _chunks(blob: bytes) -> AsyncIterator[bytes]:
    yield blob
