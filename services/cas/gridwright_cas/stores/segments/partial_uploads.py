"""Uploads that broke off and may be taken up again, here or in another process."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import Aborted, DigestMismatch, ResourceExhausted
from gridwright.file_lock import try_lock
from gridwright_cas.stores.direct_io import AlignedBuffer
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.large_file import BLOCK_BYTES, LargeFileWriter, file_bytes
from gridwright_cas.stores.segments.large_files import KeptFile, LargeFiles
from gridwright_cas.stores.segments.room import KEPT, partial_holder

#: Room is taken ahead in such steps.
_STEP_BYTES = 16 * 1024 * 1024
_MAX_COUNT = 1_024
_ABANDONED_SECONDS = 3_600.0


class PartialName(NamedTuple):
    """What names an upload: two clients that send the same blob have two uploads."""

    uuid: str
    digest: Digest
    #: How the bytes are packed that come, as REAPI calls it; "" if they are the blob's.
    compressor: str = ""

    @property
    def file_name(self) -> str:
        """A name that needs no escaping, whatever a client has chosen for its uuid."""
        parts = (self.uuid.encode(), key_of(self.digest), self.compressor.encode())
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()[:40]


class PartialUploads:
    """The bytes of uploads that are not whole yet: ``partial/<name>``, and ``locks/partial-<name>`` beside it.

    A file has exactly the bytes that came, so its size is what has been committed, to whichever process
    looks. Who appends holds the lock. What is there is never believed: who takes an upload up reads and
    hashes it again. An upload that nobody has touched for an hour goes; their number and their bytes are
    bounded, and the bytes are within the store's bound like all others.

    All methods may be called from any thread.

    Args:
        root: the store's directory.
        max_bytes: the most that all of them may take together.
    """

    def __init__(self, root: Path, index: Index, files: LargeFiles, clock: Clock, *, max_bytes: int) -> None:
        self.path = str(root / "partial")
        self.index = index
        self.files = files
        self.clock = clock
        self._locks = root / "locks"
        self._max_bytes = max_bytes
        #: File name → when it was last used (Unix milliseconds).
        self._table = index.environment.open_db(b"partials")
        with disk_errors():
            self._locks.mkdir(exist_ok=True)
            files.disk.make_directory(self.path)
            files.disk.sync_directory(str(root))

    def committed_bytes(self, name: PartialName) -> int | None:
        """Return how many bytes have come, or None if there is no such upload."""
        disk = self.files.disk
        with disk_errors():
            try:
                descriptor = disk.open(self.path_of(name.file_name), os.O_RDONLY)
            except FileNotFoundError:
                return None
            try:
                return _believable(name, disk.size(descriptor))
            finally:
                disk.close(descriptor)

    def open(self, name: PartialName) -> PartialUpload:
        """Begin an upload or take it up where it was; hashing what is there takes a second for 2 GB.

        Raises:
            Aborted: somebody else is at it; try again.
            ResourceExhausted: there are too many.
        """
        with disk_errors(), ExitStack() as unless_opened:
            lock = self._lock(name.file_name)
            if lock is None:
                raise Aborted("another call is at this upload; try again when it has ended")
            unless_opened.callback(os.close, lock)
            self.note(name.file_name)
            upload = PartialUpload(self, name, lock)
            unless_opened.pop_all()
            return upload

    def expire(self) -> int:
        """Remove the uploads that nobody has touched for an hour; return how many."""
        before = int((self.clock.now() - _ABANDONED_SECONDS) * 1000)
        with self.index.reading() as txn, txn.cursor(db=self._table) as cursor:
            old = [key.decode() for key, value in cursor if int.from_bytes(value, "big") < before]
        return sum(map(self._expire, old))

    def remove(self, file_name: str) -> None:
        """Remove an upload of which the caller holds the lock. Raises OSError."""
        with suppress(FileNotFoundError):
            self.files.disk.unlink(self.path_of(file_name))
        with self.index.writing() as txn:
            self.files.room.drop(txn, partial_holder(file_name))
            txn.delete(file_name.encode(), db=self._table)
        self.files.room.announce()

    def become_large(self, file_name: str, file_id: int, cost_bytes: int) -> None:
        """Rename a whole, synchronised upload into a large file. Raises OSError."""
        room = self.files.room
        kept = KeptFile(file_id, 0, cost_bytes)
        with self.index.writing() as txn:
            room.hand_over(txn, partial_holder(file_name), kept.holder, cost_bytes=cost_bytes)
            txn.delete(file_name.encode(), db=self._table)
        try:
            self.files.publish(self.path_of(file_name), file_id)
        except OSError:
            room.give_back(kept.holder)
            raise
        if self.files.durable:
            self.files.disk.sync_directory(self.path)

    def unlock(self, file_name: str, lock: int, *, for_good: bool) -> None:
        """Let others have the upload; *for_good*: there is none any more."""
        if for_good:
            self._lock_path(file_name).unlink(missing_ok=True)
        os.close(lock)

    def remove_strays(self) -> None:
        """Remove files that no table knows: a crash came between the one and the other. Raises OSError."""
        with self.index.reading() as txn, txn.cursor(db=self._table) as cursor:
            known = {key.decode() for key in cursor.iternext(values=False)}
        for file_name in set(self.files.disk.list_directory(self.path)) - known:
            if (lock := self._lock(file_name)) is not None:
                self.remove(file_name)
                self.unlock(file_name, lock, for_good=True)

    def path_of(self, file_name: str) -> str:
        return f"{self.path}/{file_name}"

    def take(self, file_name: str, size_bytes: int) -> None:
        """Make room for so much more of an upload.

        Raises:
            ResourceExhausted: the store, or its share for partial uploads, is full.
        """
        with self.index.reading() as txn:
            used_bytes = self.files.room.used_by(txn, b"P")
        if used_bytes + size_bytes > self._max_bytes:
            raise ResourceExhausted(
                f"the {self._max_bytes} bytes for unfinished uploads are taken; try again later",
                retry_after_seconds=1.0,
            )
        self.files.room.take(partial_holder(file_name), size_bytes, owner=KEPT)

    def charged_bytes(self, file_name: str) -> int:
        """Return how much room the upload has."""
        holder = partial_holder(file_name)
        with self.index.reading() as txn:
            return sum(charge.size_bytes for found, charge in self.files.room.charges(txn, holder) if found == holder)

    def note(self, file_name: str) -> None:
        """Note that the upload was used now.

        Raises:
            ResourceExhausted: it is a new one, and there are too many.
        """
        now_ms = int(self.clock.now() * 1000)
        with self.index.writing() as txn:
            count = txn.stat(self._table)["entries"]
            if count >= _MAX_COUNT and txn.get(file_name.encode(), db=self._table) is None:
                raise ResourceExhausted(
                    f"there are {count} unfinished uploads; finish some, or wait until they are given up",
                    retry_after_seconds=60.0,
                )
            txn.put(file_name.encode(), now_ms.to_bytes(8, "big"), db=self._table)

    def _expire(self, file_name: str) -> bool:
        with disk_errors():
            lock = self._lock(file_name)
            if lock is None:
                return False
            try:
                self.remove(file_name)
            finally:
                self.unlock(file_name, lock, for_good=True)
            return True

    def _lock(self, file_name: str) -> int | None:
        """Return a lock on a file that still has its name: its last holder may have removed it meanwhile."""
        path = self._lock_path(file_name)
        while (lock := try_lock(path)) is not None:
            try:
                if os.stat(path).st_ino == os.fstat(lock).st_ino:
                    return lock
            except FileNotFoundError:
                pass
            os.close(lock)
        return None

    def _lock_path(self, file_name: str) -> Path:
        return self._locks / f"partial-{file_name}"


class PartialUpload:
    """One upload, by whoever holds its lock.

    Its methods run in threads, one at a time; ``close`` waits for a write that a cancelled task left behind,
    and a write that comes after it does nothing.
    """

    def __init__(self, uploads: PartialUploads, name: PartialName, lock: int) -> None:
        """Take up what is there; the lock is the caller's until this returns. Raises OSError."""
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
        self._lock = threading.Lock()
        self._descriptor = self._disk.open(uploads.path_of(self._file_name), os.O_RDWR | os.O_CREAT)
        with ExitStack() as unless_resumed:
            unless_resumed.callback(self._release)
            size_bytes = _believable(name, self._disk.size(self._descriptor))
            self._disk.truncate(self._descriptor, size_bytes)
            self._take(file_bytes(size_bytes))
            self._buffer = uploads.files.buffer_for(self._descriptor, name.digest.size_bytes - size_bytes)
            self._writer = LargeFileWriter(self._disk, self._descriptor, self._buffer, self._hasher.update)
            self._writer.resume(size_bytes)
            unless_resumed.pop_all()
        self._was_resumed = size_bytes > 0

    @property
    def committed_bytes(self) -> int:
        """How many bytes have come."""
        return self._writer.stored_bytes

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*.

        Raises:
            ResourceExhausted: there is no room; what came before stays.
        """
        with self._lock, disk_errors():
            if self._closed:
                return
            self._take(file_bytes(self._writer.stored_bytes + sum(map(len, pieces))))
            self._writer.write(pieces)

    def finish(self) -> KeptFile:
        """Make a large file of it, for the caller to make a blob of (see ``LargeUpload.finish``).

        Only for bytes that are the blob's; after this only ``close`` may be called.

        Raises:
            DigestMismatch: the bytes are not the blob; the upload is removed.
            Aborted: the same, of an upload that was taken up: our copy of its first bytes may be what is wrong.
        """
        with self._lock, disk_errors():
            self._check()
            uploads = self._uploads
            cost_bytes = file_bytes(self._writer.stored_bytes)
            self._take(cost_bytes)
            self._writer.finish(self.name.digest)
            if uploads.files.durable:
                self._disk.sync(self._descriptor)
            file_id = uploads.files.new_id()
            uploads.become_large(self._file_name, file_id, cost_bytes)
            self._gone = True
            return KeptFile(file_id, self._writer.stored_bytes, cost_bytes)

    def read_back(self) -> Iterator[bytes]:
        """Yield all that came, in pieces of 1 MiB: for a small blob, or to unpack a compressed one."""
        with self._lock, disk_errors():
            self._writer.flush()
        read = self._disk.read if self._buffer is None else self._disk.read_direct
        for start in range(0, self.committed_bytes, BLOCK_BYTES):
            with disk_errors():
                piece = read(self._descriptor, min(BLOCK_BYTES, self.committed_bytes - start), start)
            yield piece

    def discard(self) -> None:
        """Remove it, because it is wrong or has become a blob; then ``close`` it."""
        with self._lock, disk_errors():
            self._remove()

    def close(self) -> None:
        """Leave the upload, unless it is gone, for somebody to take up within the hour."""
        with self._lock, disk_errors():
            if self._closed:
                return
            self._closed = True
            try:
                if not self._gone:
                    self._writer.flush()
                    self._uploads.note(self._file_name)
            finally:
                self._release()
                self._uploads.unlock(self._file_name, self._lock_file, for_good=self._gone)

    def _check(self) -> None:
        if self.name.compressor:
            raise ValueError("what is compressed must be unpacked to be checked")
        digest = self.name.digest
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

    def _release(self) -> None:
        self._disk.close(self._descriptor)
        if self._buffer is not None:
            self._uploads.files.give_back_buffer(self._buffer)

    def _take(self, needed_bytes: int) -> None:
        if needed_bytes <= self._charged_bytes:
            return
        step_bytes = min(_STEP_BYTES, self._uploads.files.room.size.max_bytes // 16)
        ahead = min(needed_bytes + step_bytes, file_bytes(self.name.digest.size_bytes))
        wanted = max(needed_bytes, ahead) - self._charged_bytes
        self._uploads.take(self._file_name, wanted)
        self._charged_bytes += wanted


def _believable(name: PartialName, size_bytes: int) -> int:
    """Return how much of a file is of the upload: a crash while it was finished leaves a table behind it."""
    return size_bytes if name.compressor else min(size_bytes, name.digest.size_bytes)
