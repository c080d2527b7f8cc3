"""Reading a large blob from threads, for a task that may go away at any moment."""

from __future__ import annotations

import threading

from gridwright.digest import Digest
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.large_file import LargeFile
from gridwright_cas.stores.segments.large_files import LargeFiles


class LargeRead:
    """One read of one blob.

    Its methods run in threads, several at once. A task that is cancelled leaves reads behind:
    the file is closed when ``close`` was called and the last of them has ended.
    """

    def __init__(self, files: LargeFiles, file_id: int, digest: Digest) -> None:
        self._files = files
        self._file_id = file_id
        self._digest = digest
        self._file: LargeFile | None = None
        self._readers = 0
        self._closed = False
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* on, to *end* or the end of a block; none once it is closed.

        Raises:
            BlobNotFound: the file is gone, before the first bytes only.
            BlobCorrupted: it is not what was written.
            Unavailable: the disk does not answer.
        """
        with disk_errors():
            file = self._begin()
            try:
                return file.read(start, end) if file is not None else b""
            finally:
                self._end()

    def close(self) -> None:
        with disk_errors(), self._lock:
            self._closed = True
            self._close_unused()

    def _begin(self) -> LargeFile | None:
        with self._lock:
            if self._file is None and not self._closed:
                self._file = self._files.open(self._file_id, self._digest)
            self._readers += 1
            return self._file

    def _end(self) -> None:
        with self._lock:
            self._readers -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._readers and self._file is not None:
            self._file.close()
            self._file = None
