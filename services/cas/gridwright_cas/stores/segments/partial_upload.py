"""One upload that is not whole yet, for whoever is at it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gridwright.blobs.resumable import UploadName
from gridwright.errors import Aborted, DigestMismatch
from gridwright_cas.stores.direct_io import AlignedBuffer
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.large_file import BLOCK_BYTES, LargeFileWriter, file_bytes
from gridwright_cas.stores.segments.large_files import KeptFile

if TYPE_CHECKING:
    from gridwright_cas.stores.segments.partial_uploads import PartialUploads

#: Room is taken ahead, as much as has come already but no more than this; what is too much is given back.
_MAX_STEP_BYTES = 64 * 1024 * 1024


class PartialUpload:
    """One upload, by whoever holds its lock.

    Its methods run in threads, one at a time but for ``hash``; ``close`` waits for a write that a cancelled task
    left behind, and a write that comes after it does nothing.
    """

    def __init__(self, uploads: PartialUploads, name: UploadName, lock: int, *, offset: int | None) -> None:
        """Take up what is there, up to *offset*; the lock is the caller's until this returns. Raises OSError."""
        self.name = name
        self._uploads = uploads
        self._file_name = name.file_name
        self._lock_file = lock
        self._disk = uploads.files.disk
        self._hasher = name.digest.function.new()
        self._buffer: AlignedBuffer | None = None
        self._charged_bytes = uploads.charged_bytes(self._file_name)
        self._closed = False
        self._gone = False
        #: A write has failed: what the file has is not what came.
        self._is_broken = False
        self._lock = threading.Lock()
        self._descriptor: int | None = self._open_file()
        with ExitStack() as unless_resumed:
            unless_resumed.callback(self._release)
            size_bytes = min(self._disk.size(self._descriptor), name.digest.size_bytes)
            size_bytes = size_bytes if offset is None else min(size_bytes, offset)
            self._disk.truncate(self._descriptor, size_bytes)
            self._take(file_bytes(size_bytes))
            self._buffer = uploads.files.buffer_for(self._descriptor, name.digest.size_bytes - size_bytes)
            self._writer = LargeFileWriter(self._disk, self._descriptor, self._buffer)
            self._writer.resume(size_bytes, self._hasher.update)
            unless_resumed.pop_all()
        self._was_resumed = size_bytes > 0

    @property
    def committed_bytes(self) -> int:
        """How many bytes have come."""
        return self._writer.stored_bytes

    def hash(self, pieces: Sequence[bytes]) -> None:
        """Hash *pieces*, which are written as well: in another thread, as either takes the time of the other."""
        # In one piece: for each the thread must get the interpreter's lock back from a busy event loop.
        self._hasher.update(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*, which are hashed as well.

        Raises:
            ResourceExhausted: there is no room; what came before stays.
        """
        with self._lock, disk_errors():
            if self._closed or self._is_broken:
                return
            if self._descriptor is None:
                self._wake()
            self._take(file_bytes(self._writer.stored_bytes + sum(map(len, pieces))))
            self._is_broken = True
            self._writer.write(pieces)
            self._is_broken = False

    def rest(self) -> None:
        """Hold neither memory nor the file, only the lock, until there is more to write."""
        with self._lock, disk_errors():
            if not self._closed and not self._is_broken and self._descriptor is not None:
                self._writer.flush()
                self._release()

    def finish(self) -> KeptFile:
        """Make a large file of it, for the caller to make a blob of (see ``LargeUpload.finish``).

        After this only ``close`` may be called.

        Raises:
            DigestMismatch: the bytes are not the blob; the upload is removed.
            Aborted: the same, of an upload that was taken up: our copy of its first bytes may be what is wrong. Or the
                upload was left.
        """
        with self._lock, disk_errors():
            self._check()
            descriptor = self._awake()
            uploads = self._uploads
            cost_bytes = file_bytes(self._writer.stored_bytes)
            self._take(cost_bytes)
            self._is_broken = True
            self._writer.finish(self.name.digest)
            if uploads.files.durable:
                self._disk.sync(descriptor)
            file_id = uploads.files.new_id()
            uploads.become_large(self._file_name, file_id, cost_bytes)
            self._gone = True
            return KeptFile(file_id, self._writer.stored_bytes, cost_bytes)

    def whole(self) -> bytes:
        """Return a small blob, for the caller to keep and then to ``discard`` the upload.

        Raises:
            DigestMismatch, Aborted: as :meth:`finish`.
        """
        with self._lock, disk_errors():
            self._check()
            descriptor = self._awake()
            self._writer.flush()
            read = self._disk.read if self._buffer is None else self._disk.read_direct
            starts = range(0, self._writer.stored_bytes, BLOCK_BYTES)
            ends = [min(start + BLOCK_BYTES, self._writer.stored_bytes) for start in starts]
            return b"".join([read(descriptor, end - start, start) for start, end in zip(starts, ends, strict=True)])

    def discard(self) -> None:
        """Remove it, because it is wrong or has become a blob, unless it was left; then ``close`` it."""
        with self._lock, disk_errors():
            if not self._closed:
                self._remove()

    def close(self) -> None:
        """Leave the upload, unless it is gone, for somebody to take up within the hour."""
        with self._lock, disk_errors():
            if self._closed:
                return
            self._closed = True
            try:
                if self._is_broken or not self._writer.stored_bytes:
                    self._remove()
                elif not self._gone and self._descriptor is not None:
                    self._writer.flush()
            finally:
                self._release()
                if self._gone:
                    self._uploads.unlock(self._file_name, self._lock_file, for_good=True)
                else:
                    self._uploads.leave(self._file_name, file_bytes(self._writer.stored_bytes), self._lock_file)

    def _check(self) -> None:
        digest = self.name.digest
        if self._closed:
            raise Aborted(f"the upload of blob {digest} was left by its caller")
        if self._writer.stored_bytes == digest.size_bytes and self._hasher.hexdigest() == digest.hash:
            return
        self._remove()
        if self._was_resumed:
            raise Aborted(f"the upload of blob {digest} cannot be completed; start again from the beginning")
        raise DigestMismatch(f"the bytes that came for blob {digest} are not that blob")

    def _remove(self) -> None:
        if not self._gone:
            self._uploads.remove(self._file_name)
            self._gone = True

    def _open_file(self) -> int:
        return self._disk.open(self._uploads.path_of(self._file_name), os.O_RDWR | os.O_CREAT)

    def _awake(self) -> int:
        if self._descriptor is None:
            self._wake()
        assert self._descriptor is not None
        return self._descriptor

    def _wake(self) -> None:
        """Open the file again after a rest."""
        self._descriptor = self._open_file()
        left_bytes = self.name.digest.size_bytes - self._writer.stored_bytes
        self._buffer = self._uploads.files.buffer_for(self._descriptor, left_bytes)
        self._writer.go_on_in(self._descriptor, self._buffer)

    def _release(self) -> None:
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None
        if self._buffer is not None:
            self._uploads.files.give_back_buffer(self._buffer)
            self._buffer = None

    def _take(self, needed_bytes: int) -> None:
        if needed_bytes <= self._charged_bytes:
            return
        # No more ahead than the rest of what was announced, if that was the truth.
        step_bytes = min(needed_bytes, _MAX_STEP_BYTES, self._uploads.files.room.size.max_bytes // 16)
        ahead = min(needed_bytes + step_bytes, file_bytes(self.name.digest.size_bytes))
        wanted = max(needed_bytes, ahead) - self._charged_bytes
        self._uploads.take(self._file_name, wanted)
        self._charged_bytes += wanted
