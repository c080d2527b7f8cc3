"""One process at a time changes an index, and nobody waits for a process that stands still for longer than a bound."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridwright.errors import Unavailable

_FILE = "writer.lock"
#: How long a writer waits for others, and how long once one has waited so long for nothing.
_PATIENCE_SECONDS = 10.0
_NO_PATIENCE_SECONDS = 0.05
_RETRY_SECONDS = 5.0
#: How often a process that waits asks again: at first as often as small transactions end, at last hardly ever.
_FIRST_ASK_SECONDS = 0.0001
_LAST_ASK_SECONDS = 0.02
_GROWTH = 1.1
#: Bytes of the file: who has the second one writes, who has the first one is next.
_NEXT, _WRITING = 0, 1
#: The kernel's struct flock.
_FLOCK = struct.Struct("hhqqi4x")


class WriterLock:
    """Stands before LMDB's own lock, for which a thread would wait without a bound.

    A process that is stopped (SIGSTOP, a frozen container, a debugger) while it writes keeps that lock. With
    this one before it, the others fail after a while, say whose fault it is, and then at once, until it
    goes on or dies. Whoever has just written lets the one go first that is waiting: without that a busy process
    would keep an idle one out.

    The locks are those of POSIX, since these tell who has them, and belong to the process: so the file must not
    be opened twice in one.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._in_process = threading.Lock()
        #: What keeps writers waiting, from when one gave up until one succeeds.
        self._trouble: str | None = None

    def close(self) -> None:
        os.close(self._descriptor)

    def trouble(self) -> str | None:
        """Return what keeps writers waiting, or None. Looks once more; for any thread."""
        if self._trouble is not None:
            try:
                with self.held():
                    return None
            except Unavailable:
                return self._trouble
        return None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only writer, of all threads of all processes, while the block runs.

        Raises:
            Unavailable: another one has been writing for too long; who it is, where that can be known.
        """
        give_up = time.monotonic() + (_NO_PATIENCE_SECONDS if self._trouble else _PATIENCE_SECONDS)
        if not self._in_process.acquire(timeout=max(0.0, give_up - time.monotonic())):
            # Of threads of this process one waits for another process, and knows more.
            self._fail(self._trouble or "another thread of this process has been writing to it: its disk hangs")
        try:
            self._lock_out_processes(give_up)
            self._trouble = None
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _WRITING)
        finally:
            self._in_process.release()

    def _lock_out_processes(self, give_up: float) -> None:
        self._lock_byte(_NEXT, give_up)
        try:
            self._lock_byte(_WRITING, give_up)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _NEXT)

    def _lock_byte(self, which: int, give_up: float) -> None:
        pause = _FIRST_ASK_SECONDS
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, which)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= give_up:
                    self._fail(self._holder())
            # The kernel tells of a lock that becomes free only who waits in it, without a bound.
            time.sleep(pause)
            pause = min(pause * _GROWTH, _LAST_ASK_SECONDS)

    def _fail(self, why: str) -> None:
        self._trouble = why
        raise Unavailable(f"the index of the CAS cannot be written: {why}", retry_after_seconds=_RETRY_SECONDS)

    def _holder(self) -> str:
        # Whoever writes will let others write; if nobody does, whoever is next stands still before it has begun.
        process = self._process_at(_WRITING)
        if process is None:
            process = self._process_at(_NEXT)
        if process is None:
            return "other processes were quicker every time"
        if process <= 0:
            return "a process in another pid namespace has been writing to it: continue or end it"
        if _is_stopped(process):
            return f"process {process} was stopped while it wrote: continue (kill -CONT {process}) or end it"
        return f"process {process} has been writing to it: its disk hangs, or it should be ended"

    def _process_at(self, which: int) -> int | None:
        """Return who has this byte, 0 or less if that cannot be known, None if nobody."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, which, 1, 0)
        kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(self._descriptor, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(process)


def _is_stopped(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except OSError:
        return False
    return state in (b"T", b"t")
