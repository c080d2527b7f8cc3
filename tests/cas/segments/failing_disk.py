"""A disk that fails when a test says so."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gridwright_cas.stores.segments.disk import Buffer, Disk
from tests.cas.segments.volatile_disk import VolatileDisk

#: What a full disk refuses. It also refuses an fdatasync, where blocks are allocated late.
NEEDS_SPACE = frozenset({"create", "write", "sync", "make_directory"})
#: What a file system refuses that the kernel has made read-only after an error.
CHANGES = frozenset({"create", "write", "truncate", "sync", "sync_directory", "rename", "unlink", "make_directory"})
READS = frozenset({"open", "read", "size", "list_directory"})
OPERATIONS = CHANGES | READS


@dataclass
class _Fault:
    error: int
    operations: frozenset[str]
    #: How many calls succeed before the first that fails.
    after: int
    #: How many calls fail.
    times: float


class FailingDisk(Disk):
    """Passes calls on, and fails those that it is told to.

    A write that fails has written its first half. An fdatasync that fails has lost what it
    should have synchronised, see ``power_cut``.
    """

    def __init__(self, inner: VolatileDisk) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        #: How many calls failed.
        self.failed = 0
        self._fault: _Fault | None = None
        self._lock = threading.Lock()

    def fail(self, error: int, operations: frozenset[str], *, after: int = 0, times: float = float("inf")) -> None:
        """Let *operations* fail with *error*, from the one behind *after* on, *times* in all or until ``heal``."""
        with self._lock:
            self._fault = _Fault(error, operations, after, times)

    def heal(self) -> None:
        """Fail no more."""
        with self._lock:
            self._fault = None

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        creates = bool(flags & os.O_CREAT) and not os.path.exists(path)
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        self._may("create" if creates or (writes and self._is_read_only) else "open", path)
        return self.inner.open(path, flags, mode)

    def close(self, fd: int) -> None:
        self.inner.close(fd)

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        try:
            self._may("write")
        except OSError:
            data = b"".join(buffers)
            self.inner.write(fd, [data[: len(data) // 2]], offset)
            raise
        self.inner.write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._may("read")
        return self.inner.read(fd, size, offset)

    def size(self, fd: int) -> int:
        self._may("size")
        return self.inner.size(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._may("truncate")
        self.inner.truncate(fd, size)

    def sync(self, fd: int) -> None:
        try:
            self._may("sync")
        except OSError:
            self.inner.fail_sync(fd)
            raise
        self.inner.sync(fd)

    def sync_directory(self, path: str) -> None:
        self._may("sync_directory", path)
        self.inner.sync_directory(path)

    def rename(self, old: str, new: str) -> None:
        self._may("rename", old)
        self.inner.rename(old, new)

    def unlink(self, path: str) -> None:
        self._may("unlink", path)
        self.inner.unlink(path)

    def make_directory(self, path: str) -> None:
        self._may("make_directory", path)
        self.inner.make_directory(path)

    def list_directory(self, path: str) -> list[str]:
        self._may("list_directory", path)
        return self.inner.list_directory(path)

    @property
    def _is_read_only(self) -> bool:
        return self._fault is not None and self._fault.error == errno.EROFS

    def _may(self, operation: str, path: str | None = None) -> None:
        with self._lock:
            self.calls[operation] += 1
            fault = self._fault
            if fault is None or operation not in fault.operations:
                return
            if fault.after:
                fault.after -= 1
                return
            if fault.times <= 0:
                return
            fault.times -= 1
            self.failed += 1
        raise OSError(fault.error, os.strerror(fault.error), path)
