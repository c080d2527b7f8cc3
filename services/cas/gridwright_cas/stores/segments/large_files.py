"""The directory of large blobs, and how one comes into it."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import Aborted, BlobNotFound
from gridwright_cas.stores.direct_io import LARGE_BYTES, AlignedBuffer, BufferPool, LatelyRead
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.large_file import LargeFile, LargeFileWriter, file_bytes
from gridwright_cas.stores.segments.room import Room, large_holder

#: Room is taken ahead, as much as has come already but no more than this: an upload that announced a terabyte and
#: stands still after its first bytes takes nothing from others.
_MAX_STEP_BYTES = 64 * 1024 * 1024
_UNFINISHED = ".part"


class KeptFile(NamedTuple):
    """A large file that is whole and on the disk; a row, and a record for its replay, make it a blob."""

    file_id: int
    stored_bytes: int
    #: What the file takes; settle the room of *holder* to it in the transaction that adds the row.
    cost_bytes: int

    @property
    def holder(self) -> bytes:
        return large_holder(self.file_id)


class LargeFiles:
    """Blobs that are files of their own, ``large/<id>``.

    An id is random and taken by no other file, so an upload of a blob and the eviction of its
    predecessor cannot meet in one name. Until it is whole a file is called ``<id>.part``; what a
    dead process left under such a name goes with its charge.

    All methods may be called from any thread.
    """

    def __init__(
        self, path: str, disk: Disk, room: Room, buffers: BufferPool, clock: Clock, *, durable: bool = True
    ) -> None:
        self.path = path
        self.disk = disk
        self.room = room
        self.durable = durable
        self._buffers = buffers
        self._clock = clock
        self._lately_read = LatelyRead()
        self._lock = threading.Lock()
        with disk_errors():
            disk.make_directory(path)
            if durable:
                disk.sync_directory(os.path.dirname(path))

    def begin(self, digest: Digest) -> LargeUpload:
        """Return an upload of *digest*; nothing is on the disk before its first bytes."""
        return LargeUpload(self, digest)

    def open(self, file_id: int, digest: Digest, *, scrubbing: bool = False) -> LargeFile:
        """Open a blob for reading; past the page cache if it is large, and not read for the second time soon.

        Raises:
            BlobNotFound: there is no such file: it was evicted since its row was looked up.
            BlobCorrupted: it is not a whole file of *digest*.
        """
        with disk_errors(), ExitStack() as unless_opened:
            try:
                descriptor = self.disk.open(self.path_of(file_id), os.O_RDONLY)
            except FileNotFoundError:
                raise BlobNotFound(digest) from None
            unless_opened.callback(self.disk.close, descriptor)
            file = LargeFile(self.disk, descriptor, digest)
            if scrubbing or (file.stored_bytes >= LARGE_BYTES and not self._was_read_lately(digest)):
                file.bypass_cache()
            unless_opened.pop_all()
            return file

    def discard(self, kept: KeptFile) -> None:
        """Remove a file that did not become a blob, and let others have its room."""
        with disk_errors():
            self.remove(kept.file_id)
        self.room.give_back(kept.holder)

    def remove(self, file_id: int) -> None:
        """Remove a file, whole or not; it may be gone already. Raises OSError; its charge is the caller's."""
        for path in (self.path_of(file_id), self.path_of(file_id) + _UNFINISHED):
            try:
                self.disk.unlink(path)
            except FileNotFoundError:
                continue

    def path_of(self, file_id: int) -> str:
        return f"{self.path}/{file_id:016x}"

    def file_ids(self) -> set[int]:
        """Return the ids of all files that are there, whole or not. Raises OSError."""
        ids: set[int] = set()
        for name in self.disk.list_directory(self.path):
            try:
                ids.add(int(name.removesuffix(_UNFINISHED), 16))
            except ValueError:
                continue  # not ours
        return ids

    def new_id(self) -> int:
        """Return an id that no file has; a random one of 62 bits."""
        while self.room.is_taken(large_holder(file_id := 1 + secrets.randbits(62))):
            pass
        return file_id

    def buffer_for(self, descriptor: int, size_bytes: int) -> AlignedBuffer | None:
        """Return a buffer, for :meth:`give_back_buffer`, if this file is to be written past the page cache."""
        if size_bytes < LARGE_BYTES or (buffer := self._buffers.take()) is None:
            return None
        if self.disk.bypass_cache(descriptor):
            return buffer
        self._buffers.give_back(buffer)
        return None

    def give_back_buffer(self, buffer: AlignedBuffer) -> None:
        self._buffers.give_back(buffer)

    def publish(self, path: str, file_id: int) -> None:
        """Give a whole, synchronised file its name, for good. Raises OSError."""
        self.disk.rename(path, self.path_of(file_id))
        if self.durable:
            self.disk.sync_directory(self.path)

    def _was_read_lately(self, digest: Digest) -> bool:
        with self._lock:
            return self._lately_read.note(digest, self._clock.now())


class LargeUpload:
    """A large blob being written: a file that becomes whole, or goes.

    Its methods run in threads, one at a time whatever happens to the task that called them:
    ``close`` waits for a write that a cancelled task left behind, and a write that comes
    after it does nothing.
    """

    def __init__(self, files: LargeFiles, digest: Digest) -> None:
        self.digest = digest
        self._files = files
        self._file_id = files.new_id()
        self._path = files.path_of(self._file_id) + _UNFINISHED
        self._descriptor: int | None = None
        self._buffer: AlignedBuffer | None = None
        self._writer: LargeFileWriter | None = None
        self._taken_bytes = 0
        self._kept: KeptFile | None = None
        self._closed = False
        self._lock = threading.Lock()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*, making room as they come.

        Raises:
            ResourceExhausted: there is no room.
        """
        with self._lock, disk_errors():
            if self._closed:
                return
            writer = self._writer or self._open()
            self._take(file_bytes(writer.stored_bytes + sum(map(len, pieces))))
            writer.write(pieces)

    def finish(self) -> KeptFile:
        """Bring all of it to the disk under its name.

        It still goes unless its room is settled: by ``LargeFiles.discard``, or, when this process dies, by the evictor.

        Raises:
            Aborted: the upload was closed, because its caller has gone.
        """
        with self._lock, disk_errors():
            if self._closed:
                raise Aborted(f"the upload of blob {self.digest} was given up by its caller")
            writer = self._writer or self._open()
            cost_bytes = file_bytes(writer.stored_bytes)
            self._take(cost_bytes)
            writer.finish(self.digest)
            if self._files.durable:
                self._files.disk.sync(self._descriptor or 0)
            self._files.publish(self._path, self._file_id)
            self._kept = KeptFile(self._file_id, writer.stored_bytes, cost_bytes)
            return self._kept

    def close(self) -> None:
        """Close the file, and remove it unless it was finished."""
        with self._lock, disk_errors():
            if self._closed:
                return
            self._closed = True
            if self._descriptor is not None:
                self._files.disk.close(self._descriptor)
            if self._buffer is not None:
                self._files.give_back_buffer(self._buffer)
            if self._kept is None and self._taken_bytes:
                self._files.remove(self._file_id)
                self._files.room.give_back(large_holder(self._file_id))

    def _open(self) -> LargeFileWriter:
        self._take(file_bytes(0))
        files = self._files
        self._descriptor = files.disk.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._buffer = files.buffer_for(self._descriptor, self.digest.size_bytes)
        self._writer = LargeFileWriter(files.disk, self._descriptor, self._buffer)
        return self._writer

    def _take(self, needed_bytes: int) -> None:
        if needed_bytes <= self._taken_bytes:
            return
        # No more ahead than the rest of what was announced, if that was the truth.
        step_bytes = min(needed_bytes, _MAX_STEP_BYTES, self._files.room.size.max_bytes // 16)
        ahead = min(needed_bytes + step_bytes, file_bytes(self.digest.size_bytes))
        wanted = max(needed_bytes, ahead) - self._taken_bytes
        self._files.room.take(large_holder(self._file_id), wanted)
        self._taken_bytes += wanted
