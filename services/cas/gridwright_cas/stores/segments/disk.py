"""The system calls of the segment engine, so that tests can put a failing disk or a power cut in their place."""

from __future__ import annotations

import errno
import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gridwright_cas.stores.direct_io import bypass_cache, read_at

#: What can be written without being copied first.
Buffer = bytes | bytearray | memoryview

#: The kernel takes at most 1,024 buffers at once.
_MAX_BUFFERS = 1024
#: What a file system says that would have to wait, or that cannot know.
_WOULD_WAIT = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Disk(Protocol):
    """All file I/O of the engine; only LMDB does its own.

    File descriptors are those of the disk and mean nothing to ``os``. Every method may be
    called from any thread, and raises OSError as the system calls do.
    """

    @abstractmethod
    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Return a file descriptor; *flags* are those of ``os.open``."""
        ...

    @abstractmethod
    def close(self, fd: int) -> None: ...

    @abstractmethod
    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of *buffers*, one after another, from *offset* on."""
        ...

    @abstractmethod
    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return *size* bytes from *offset* on; fewer only at the end of the file."""
        ...

    def read_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        """Like ``read``, but return None where that would have to wait for the disk."""
        return None

    @abstractmethod
    def size(self, fd: int) -> int: ...

    @abstractmethod
    def truncate(self, fd: int, size: int) -> None: ...

    @abstractmethod
    def sync(self, fd: int) -> None:
        """Bring the file's bytes and its size to the disk (fdatasync)."""
        ...

    @abstractmethod
    def sync_directory(self, path: str) -> None:
        """Bring the names in a directory to the disk."""
        ...

    @abstractmethod
    def rename(self, old: str, new: str) -> None: ...

    @abstractmethod
    def unlink(self, path: str) -> None: ...

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; one that is there is no error."""
        ...

    @abstractmethod
    def list_directory(self, path: str) -> list[str]: ...

    def free_bytes(self, path: str) -> float:
        """Return how much room the file system of *path* has; infinity where that is not known."""
        return math.inf

    def bypass_cache(self, fd: int) -> bool:
        """Do direct I/O on an open file from now on, in whole pages; return whether that can be had."""
        return False

    def read_direct(self, fd: int, size: int, offset: int) -> bytes:
        """Like :meth:`read`, of at most 1 MiB, from a file that bypasses the cache."""
        return self.read(fd, size, offset)


class SystemDisk(Disk):
    """The disk of this machine."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        for start in range(0, len(buffers), _MAX_BUFFERS):
            some = buffers[start : start + _MAX_BUFFERS]
            written = os.pwritev(fd, some, offset)
            if written < sum(map(len, some)):
                _write_rest(fd, b"".join(some), offset, written)
            offset += sum(map(len, some))

    def read(self, fd: int, size: int, offset: int) -> bytes:
        found = os.pread(fd, size, offset)
        if len(found) == size or not found:
            return found
        pieces = [found]  # a signal, or more than 2 GiB: the kernel may give less than there is
        left = size - len(found)
        while left and (found := os.pread(fd, left, offset + size - left)):
            pieces.append(found)
            left -= len(found)
        return b"".join(pieces)

    def read_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        found = bytearray(size)
        try:
            count = os.preadv(fd, [found], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _WOULD_WAIT:
                return None
            raise
        # The kernel stops at the first page that is not in memory; here that looks like the end of the file.
        return bytes(found) if count == size else None

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def list_directory(self, path: str) -> list[str]:
        return os.listdir(path)

    def free_bytes(self, path: str) -> float:
        status = os.statvfs(path)
        # Some file systems, of FUSE above all, have zeros for everything.
        return status.f_bavail * status.f_frsize if status.f_blocks else math.inf

    def bypass_cache(self, fd: int) -> bool:
        return bypass_cache(fd)

    def read_direct(self, fd: int, size: int, offset: int) -> bytes:
        return read_at(fd, size, offset)


def _write_rest(fd: int, data: bytes, offset: int, written: int) -> None:
    """Write what a short write left over; where the disk is full this tells so."""
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)
