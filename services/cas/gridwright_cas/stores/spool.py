"""A directory for what came of uploads that are not whole yet: synchronous, called from threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from gridwright.clock import Clock
from gridwright.errors import Aborted, InvalidRequest
from gridwright.file_lock import try_lock_named
from gridwright_cas.stores.disk_errors import disk_errors

_ABANDONED_SECONDS = 3_600.0
#: How often a file that grows makes others be looked at.
_STEP_BYTES = 64 * 1024 * 1024


class Spool:
    """Files of a flat directory, each locked by whoever appends to it.

    What nobody has touched for an hour goes; earlier, the oldest first, where the files take more than *max_bytes*.
    Several processes may use one directory. It is made when it is first needed.
    """

    def __init__(self, path: Path, clock: Clock, *, max_bytes: int) -> None:
        self.path = path
        self.clock = clock
        self._max_bytes = max_bytes

    def size_bytes(self, file_name: str) -> int:
        """Return how many bytes a file has; 0 if there is none."""
        with disk_errors():
            try:
                return os.stat(self.path / file_name).st_size
            except FileNotFoundError:
                return 0

    def open(self, file_name: str, offset: int) -> SpoolFile:
        """Open a file to append to it at *offset*, behind which nothing is kept.

        Raises:
            Aborted: somebody else is at it; try again.
            InvalidRequest: it does not have so many bytes.
        """
        with disk_errors(), ExitStack() as unless_opened:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = try_lock_named(self.path / file_name)
            if descriptor is None:
                raise Aborted("another call is at this upload; try again when it has ended")
            found_bytes = os.fstat(descriptor).st_size
            file = SpoolFile(self, file_name, descriptor, found_bytes)
            unless_opened.callback(file.close)
            if found_bytes < offset:
                raise InvalidRequest(
                    f"write_offset is {offset}, but {found_bytes} bytes of this upload are here; go on there, or at 0",
                    field="write_offset",
                )
            os.ftruncate(descriptor, offset)
            file.size_bytes = offset
            self.tidy()
            unless_opened.pop_all()
        return file

    def forget(self, file_name: str) -> bool:
        """Remove a file, unless somebody is at it; return whether it is gone."""
        with disk_errors():
            descriptor = try_lock_named(self.path / file_name)
            if descriptor is None:
                return False
            self._unlink(file_name)
            os.close(descriptor)
            return True

    def tidy(self, coming_bytes: int = 0) -> bool:
        """Remove what is too old, and the oldest while all together is too much; return whether it no longer is."""
        with disk_errors():
            files = sorted(self._files())
        used_bytes = coming_bytes + sum(size_bytes for _, size_bytes, _ in files)
        before = self.clock.now() - _ABANDONED_SECONDS
        for used_at, size_bytes, file_name in files:
            if used_at >= before and used_bytes <= self._max_bytes:
                break
            if self.forget(file_name):
                used_bytes -= size_bytes
        return used_bytes <= self._max_bytes

    def remove(self, file: SpoolFile) -> None:
        """Remove a file of which the caller holds the lock. Raises OSError."""
        self._unlink(file.name)

    def _files(self) -> list[tuple[float, int, str]]:
        """Return when each file was last used, its size and its name. Raises OSError."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, entry.name))
        return found

    def _unlink(self, file_name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path / file_name)


class SpoolFile:
    """A file of a spool that is locked; a copy, so what goes wrong with it is nobody's failure.

    Where the disk is full, or the spool would take more than it may, the file is given up: it has no bytes then, and
    takes none.
    """

    def __init__(self, spool: Spool, name: str, descriptor: int, size_bytes: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._spool = spool
        self._descriptor = descriptor
        self._is_given_up = False
        self._look_at_bytes = _STEP_BYTES

    @property
    def is_whole(self) -> bool:
        """Whether it has all that was appended."""
        return not self._is_given_up

    def append(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*."""
        if self._is_given_up:
            return
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    written = os.pwrite(self._descriptor, left, self.size_bytes)
                    self.size_bytes += written
                    left = left[written:]
        except OSError:
            self._give_up()
            return
        if self.size_bytes >= self._look_at_bytes:
            self._look_at_bytes = self.size_bytes + _STEP_BYTES
            if not self._spool.tidy(_STEP_BYTES):
                self._give_up()

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Return so many bytes, fewer only at the end."""
        with disk_errors():
            return os.pread(self._descriptor, size_bytes, offset)

    def discard(self) -> None:
        """Remove it; then ``close`` it."""
        self._is_given_up = True
        with disk_errors():
            self._spool.remove(self)

    def close(self) -> None:
        """Leave it, unless it is empty, for somebody to go on with."""
        with disk_errors():
            try:
                if not self.size_bytes and not self._is_given_up:
                    self._spool.remove(self)
                now = self._spool.clock.now()
                os.utime(self._descriptor, (now, now))
            finally:
                os.close(self._descriptor)

    def _give_up(self) -> None:
        self._is_given_up = True
        with suppress(OSError):
            self._spool.remove(self)
            os.ftruncate(self._descriptor, 0)
