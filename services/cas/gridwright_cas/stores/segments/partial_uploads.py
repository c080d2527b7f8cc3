"""Uploads that broke off and may be taken up again, here or in another process."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from gridwright.blobs.resumable import UploadName
from gridwright.clock import Clock
from gridwright.errors import Aborted, GridwrightError, InvalidRequest, ResourceExhausted
from gridwright.file_lock import try_lock_named
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.large_files import KeptFile, LargeFiles
from gridwright_cas.stores.segments.partial_upload import PartialUpload
from gridwright_cas.stores.segments.room import KEPT, partial_holder

_MAX_COUNT = 4_096
_ABANDONED_SECONDS = 3_600.0
#: With less room on the disk than this, what was left is worth less than what comes: uploads take so much ahead.
_SCARCE_BYTES = 64 * 1024 * 1024
#: Who was cut off asks how much has come and goes on there. What went in between would end the upload: nobody tries
#: INVALID_ARGUMENT again.
_TAKEN_UP_SECONDS = 15.0


class PartialUploads:
    """The bytes of uploads that are not whole yet: ``partial/<name>``, and ``locks/partial-<name>`` beside it.

    A file has exactly the bytes that came, so its size is what has been committed, to whichever process
    looks. Who appends holds the lock. What is there is never believed: who takes an upload up reads and
    hashes it again. An upload that nobody has touched for an hour goes; earlier, the oldest first, where a new one
    needs its place, or the disk is nearly full: their number and their bytes are bounded, and the bytes are within the
    store's bound like all others. An upload that somebody is at never goes.

    All methods may be called from any thread.

    Args:
        root: the store's directory.
        max_bytes: the most that those which were left may take together.
    """

    def __init__(self, root: Path, index: Index, files: LargeFiles, clock: Clock, *, max_bytes: int) -> None:
        self.path = str(root / "partial")
        self.index = index
        self.files = files
        self.clock = clock
        self._locks = root / "locks"
        self._max_bytes = max_bytes
        #: File name → when it was last used (Unix milliseconds).
        self._table = index.table(b"partials")
        with disk_errors():
            self._locks.mkdir(exist_ok=True)
            files.disk.make_directory(self.path)
            files.disk.sync_directory(str(root))

    def committed_bytes(self, name: UploadName) -> int | None:
        """Return how many bytes have come, or None if there is no such upload.

        A crash while it was finished leaves a table behind them.
        """
        disk = self.files.disk
        with disk_errors():
            try:
                descriptor = disk.open(self.path_of(name.file_name), os.O_RDONLY)
            except FileNotFoundError:
                return None
            try:
                return min(disk.size(descriptor), name.digest.size_bytes)
            finally:
                disk.close(descriptor)

    def open(self, name: UploadName, offset: int | None = None) -> PartialUpload:
        """Begin an upload or take it up where it was; hashing what is there takes a second for 2 GB.

        Args:
            offset: where the caller goes on, behind which nothing is kept; None is wherever it was.

        Raises:
            Aborted: somebody else is at it; try again.
            InvalidRequest: *offset* is beyond what has come.
            ResourceExhausted: there are too many that somebody is at.
        """
        with disk_errors(), ExitStack() as unless_opened:
            lock = try_lock_named(self._lock_path(name.file_name))
            if lock is None:
                raise Aborted("another call is at this upload; try again when it has ended")
            unless_opened.callback(self._unlock_unopened, name.file_name, lock)
            if offset:
                self._expect(name, offset)
            self.note(name.file_name)
            upload = PartialUpload(self, name, lock, offset=offset)
            unless_opened.pop_all()
            return upload

    def forget(self, name: UploadName) -> None:
        """Remove an upload, unless somebody is at it."""
        self._expire(name.file_name)

    def expire(self) -> int:
        """Remove the uploads that nobody has touched for an hour; return how many."""
        return sum(map(self._expire, self._by_age(int((self.clock.now() - _ABANDONED_SECONDS) * 1000))))

    def relieve(self) -> int:
        """Remove those that were left, the oldest first, while the disk has next to no room; return how many.

        The store's bound is no help where others have filled the disk. What was left just now may be about to be taken
        up, and stays. Raises OSError.
        """
        before = int((self.clock.now() - _TAKEN_UP_SECONDS) * 1000)
        count = 0
        for file_name in self._by_age(before):
            if self.files.disk.free_bytes(self.path) >= _SCARCE_BYTES:
                break
            count += self._expire(file_name)
        return count

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
            # Renamed or not; where this fails as well its charge is cleared when this process has ended.
            with suppress(GridwrightError):
                self.files.discard(kept)
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
        # First the files, then the table: what is begun in between is noted before it has a file.
        found = set(self.files.disk.list_directory(self.path))
        with self.index.reading() as txn, txn.cursor(db=self._table) as cursor:
            known = {key.decode() for key in cursor.iternext(values=False)}
        for file_name in found - known:
            if (lock := try_lock_named(self._lock_path(file_name))) is not None:
                self.remove(file_name)
                self.unlock(file_name, lock, for_good=True)

    def path_of(self, file_name: str) -> str:
        return f"{self.path}/{file_name}"

    def take(self, file_name: str, size_bytes: int) -> None:
        """Make room for so much more of an upload, also at the price of some that were left.

        Raises:
            ResourceExhausted: the store is full.
        """
        self._bound(size_bytes)
        self.files.room.take(partial_holder(file_name), size_bytes, owner=KEPT)

    def charged_bytes(self, file_name: str) -> int:
        """Return how much room the upload has."""
        with self.index.reading() as txn:
            return self.files.room.charge(txn, partial_holder(file_name)).size_bytes

    def note(self, file_name: str) -> None:
        """Note that the upload was used now.

        Raises:
            ResourceExhausted: it is a new one, and there are too many.
        """
        now_ms = int(self.clock.now() * 1000)
        while True:
            with self.index.writing() as txn:
                count = txn.stat(self._table)["entries"]
                if count < _MAX_COUNT or txn.get(file_name.encode(), db=self._table) is not None:
                    txn.put(file_name.encode(), now_ms.to_bytes(8, "big"), db=self._table)
                    return
            if not self._drop_oldest():
                raise ResourceExhausted(
                    f"{count} uploads are under way; upload again when some have ended", retry_after_seconds=1.0
                )

    def leave(self, file_name: str, size_bytes: int, lock: int) -> None:
        """Let whoever comes within the hour have the upload, which takes so much."""
        try:
            now_ms = int(self.clock.now() * 1000)
            with self.index.writing() as txn:
                self.files.room.settle(txn, partial_holder(file_name), size_bytes)
                txn.put(file_name.encode(), now_ms.to_bytes(8, "big"), db=self._table)
            self.files.room.announce()
        finally:
            self.unlock(file_name, lock, for_good=False)
        self._bound(0)

    def _unlock_unopened(self, file_name: str, lock: int) -> None:
        """Unlock an upload that was not taken up; where nothing has come of it there is nothing to be locked."""
        self.unlock(file_name, lock, for_good=not os.path.exists(self.path_of(file_name)))

    def _expect(self, name: UploadName, offset: int) -> None:
        committed_bytes = self.committed_bytes(name) or 0
        if committed_bytes < offset:
            raise InvalidRequest(
                f"write_offset is {offset}, but {committed_bytes} bytes of this upload are here; go on there, or at 0",
                field="write_offset",
            )

    def _bound(self, coming_bytes: int) -> None:
        """Drop those that were left, the oldest first, until so much more is within the bound."""
        while self._used_bytes() + coming_bytes > self._max_bytes and self._drop_oldest():
            continue

    def _used_bytes(self) -> int:
        with self.index.reading() as txn:
            return self.files.room.used_by(txn, b"P")

    def _drop_oldest(self) -> bool:
        """Remove the upload that was left first; return whether there was one that nobody is at."""
        return any(map(self._expire, self._by_age()))

    def _by_age(self, before_ms: float = math.inf) -> list[str]:
        """Return the names of those that were last used before then, those first that were used longest ago."""
        with self.index.reading() as txn, txn.cursor(db=self._table) as cursor:
            by_age = sorted((int.from_bytes(value, "big"), key.decode()) for key, value in cursor)
        return [file_name for used_ms, file_name in by_age if used_ms < before_ms]

    def _expire(self, file_name: str) -> bool:
        with disk_errors():
            lock = try_lock_named(self._lock_path(file_name))
            if lock is None:
                return False
            try:
                self.remove(file_name)
            finally:
                self.unlock(file_name, lock, for_good=True)
            return True

    def _lock_path(self, file_name: str) -> Path:
        return self._locks / f"partial-{file_name}"
