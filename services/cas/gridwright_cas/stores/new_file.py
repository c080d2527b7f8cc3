"""A file that is being written, through the page cache or past it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gridwright_cas.stores.direct_io import LARGE_BYTES, AlignedBuffer, BufferPool, bypass_cache, write_at

#: After so many bytes the kernel is asked to begin writing, so that the last one need not wait for all.
_WRITEBACK_BYTES = 16 * 1024 * 1024
#: The kernel takes at most 1,024 buffers at once.
_MAX_BUFFERS = 1024


class NewFile(Protocol):
    """A file that is written from its start to its end; its methods raise OSError."""

    @abstractmethod
    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*."""
        ...

    @abstractmethod
    def complete(self, *, durable: bool) -> None:
        """Append nothing more; bring all of it to the disk if it must be *durable*."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Close the file, as it is."""
        ...


def open_new(path: str, size_bytes: int, buffers: BufferPool) -> NewFile:
    """Create the file, which will have about *size_bytes*: a large one past the page cache, where that can be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if size_bytes >= LARGE_BYTES and (buffer := buffers.take()) is not None:
        if bypass_cache(descriptor):
            return _DirectFile(descriptor, buffer, buffers)
        buffers.give_back(buffer)
    return _BufferedFile(descriptor)


class _BufferedFile(NewFile):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written_bytes = 0
        #: How much of it the kernel was asked to bring to the disk.
        self._begun_bytes = 0

    def write(self, pieces: Sequence[bytes]) -> None:
        left: list[bytes | memoryview] = list(pieces)
        while left:
            written = os.writev(self._descriptor, left[:_MAX_BUFFERS])
            self._written_bytes += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = memoryview(left[0])[written:]
        if (length := self._written_bytes - self._begun_bytes) >= _WRITEBACK_BYTES:
            # Linux starts to write what is dirty when it is told that it will not be needed. What is being
            # written stays cached, and bytes that were just written are all dirty.
            os.posix_fadvise(self._descriptor, self._begun_bytes, length, os.POSIX_FADV_DONTNEED)
            self._begun_bytes = self._written_bytes

    def complete(self, *, durable: bool) -> None:
        if durable:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _DirectFile(NewFile):
    def __init__(self, descriptor: int, buffer: AlignedBuffer, buffers: BufferPool) -> None:
        self._descriptor = descriptor
        self._buffer = buffer
        self._buffers = buffers
        self._offset = 0
        self._size_bytes = 0

    def write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._size_bytes += len(piece)
            left = memoryview(piece)
            while left:
                left = self._buffer.fill(left)
                if self._buffer.is_full:
                    self._flush()

    def complete(self, *, durable: bool) -> None:
        self._flush()
        os.ftruncate(self._descriptor, self._size_bytes)
        if durable:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
        self._buffers.give_back(self._buffer)

    def _flush(self) -> None:
        data = self._buffer.take()
        write_at(self._descriptor, data, self._offset)
        self._offset += len(data)
