"""Reading a large blob from threads, for a task that may go away at any moment."""

from __future__ import annotations

import threading

from gridwright.digest import Digest
from gridwright_cas.stores.blob_directory import disk_errors
from gridwright_cas.stores.segments.large_file import LargeFile
from gridwright_cas.stores.segments.large_files import LargeFiles


class LargeRead:
    """One read of one blob.

    Its methods run in threads, one at a time whatever happens to the task that called them: ``close`` waits
    for what a cancelled task left behind, and what comes after it does nothing.
    """

    def __init__(self, files: LargeFiles, file_id: int, digest: Digest) -> None:
        self._files = files
        self._file_id = file_id
        self._digest = digest
        self._file: LargeFile | None = None
        self._closed = False
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* on, to *end* or the end of a block.

        Raises:
            BlobNotFound: the file is gone, before the first bytes only.
            BlobCorrupted: it is not what was written.
            Unavailable: the disk does not answer.
        """
        with self._lock, disk_errors():
            if self._closed:
                return b""
            if self._file is None:
                self._file = self._files.open(self._file_id, self._digest)
            return self._file.read(start, end)

    def close(self) -> None:
        with self._lock, disk_errors():
            self._closed = True
            if self._file is not None:
                self._file.close()
                self._file = None
