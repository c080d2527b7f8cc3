"""Large files are written and read past the page cache.

A large blob that passes through the page cache drives a thousand small ones out of it, and
most large blobs are outputs that nobody reads soon. Where fresh pages are dear, as in many
virtual machines, going past the cache is also about twice as fast. A blob that is read a
second time soon is worth its pages: see ``LatelyRead``.

Direct I/O (``O_DIRECT``) wants addresses, offsets and lengths in whole blocks, hence the
buffers here. Not every file system offers it; ``bypass_cache`` says so.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections import OrderedDict

from gridwright.digest import Digest

#: Below this size a blob goes through the page cache.
LARGE_BYTES = 16 * 1024 * 1024
#: What addresses, offsets and lengths are multiples of; no disk or file system that we know asks for more.
BLOCK_BYTES = 4096
#: One write of so much keeps a disk busy; more only costs memory.
BUFFER_BYTES = 2 * 1024 * 1024
#: How many uploads at once may have a buffer; the others go through the page cache.
_MAX_BUFFERS = 8
#: How many blobs are remembered as read, and for how long.
_REMEMBERED = 4096
_REMEMBERED_SECONDS = 600.0


def bypass_cache(descriptor: int) -> bool:
    """Do direct I/O on an open file from now on; return whether its file system offers that."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


class AlignedBuffer:
    """Collects the pieces of a stream into whole blocks, in memory that direct I/O can be given."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BUFFER_BYTES)
        self._view = memoryview(self._memory)
        self._filled_bytes = 0

    def fill(self, piece: memoryview) -> memoryview:
        """Take as much of *piece* as there is room for, and return the rest."""
        start = self._filled_bytes
        self._filled_bytes = end = min(start + len(piece), BUFFER_BYTES)
        self._view[start:end] = piece[: end - start]
        return piece[end - start :]

    @property
    def is_full(self) -> bool:
        return self._filled_bytes == BUFFER_BYTES

    def take(self) -> memoryview:
        """Return what was collected, padded to whole blocks, and begin anew; use it before the next ``fill``."""
        size_bytes = -(-self._filled_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._view[self._filled_bytes : size_bytes] = bytes(size_bytes - self._filled_bytes)
        self._filled_bytes = 0
        return self._view[:size_bytes]


class BufferPool:
    """Aligned buffers, used again and again: their pages stay warm, and their number is bounded."""

    def __init__(self, limit: int = _MAX_BUFFERS) -> None:
        self._left = limit
        self._idle: list[AlignedBuffer] = []
        self._lock = threading.Lock()

    def take(self) -> AlignedBuffer | None:
        """Return a buffer for the caller alone; None: all are in use."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if not self._left:
                return None
            self._left -= 1
        return AlignedBuffer()

    def give_back(self, buffer: AlignedBuffer) -> None:
        """Let others use the buffer."""
        buffer.take()
        with self._lock:
            self._idle.append(buffer)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of *data* at *offset*; in direct I/O both are whole blocks."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


class _ReadBuffer(threading.local):
    """One buffer per reading thread."""

    memory: mmap.mmap | None = None


_read_buffer = _ReadBuffer()


def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Return up to *size_bytes* (at most BUFFER_BYTES less a block) from *offset*, through direct I/O."""
    if _read_buffer.memory is None:
        _read_buffer.memory = mmap.mmap(-1, BUFFER_BYTES)
    memory = _read_buffer.memory
    skipped = offset % BLOCK_BYTES
    wanted = -(-(skipped + size_bytes) // BLOCK_BYTES) * BLOCK_BYTES
    with memoryview(memory) as view:
        got = os.preadv(descriptor, [view[:wanted]], offset - skipped)
    return memory[skipped : min(got, skipped + size_bytes)]


class LatelyRead:
    """Remembers which large blobs were read, so that those read again soon go through the page cache."""

    def __init__(self) -> None:
        self._read_at: OrderedDict[Digest, float] = OrderedDict()

    def note(self, digest: Digest, now: float) -> bool:
        """Count a read; return whether it is one soon after another."""
        before = self._read_at.pop(digest, None)
        self._read_at[digest] = now
        if len(self._read_at) > _REMEMBERED:
            self._read_at.popitem(last=False)
        return before is not None and now - before < _REMEMBERED_SECONDS
