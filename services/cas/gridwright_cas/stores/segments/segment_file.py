"""Segment files: appending to one, and reading what was appended when nobody remembers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gridwright.file_lock import try_lock
from gridwright_cas.stores.segments.disk import Buffer, Disk
from gridwright_cas.stores.segments.record import MAX_RECORD_BYTES, Damaged, Record, decode

_SCAN_BYTES = 4 * 1024 * 1024
#: So much of a segment is held in memory at once while what is in it is gone through.
_BATCH_BYTES = 4 * 1024 * 1024


class SegmentDirectory:
    """Where the segments are: ``segments/<id>``, and ``locks/<id>`` while a process appends to one."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.disk = disk
        self.path = str(root / "segments")
        self._locks = root / "locks"

    def make(self) -> None:
        """Make the directories.

        Raises:
            OSError: they cannot be made.
        """
        self.disk.make_directory(self.path)
        self.disk.sync_directory(os.path.dirname(self.path))
        self._locks.mkdir(exist_ok=True)

    def records_in(self, segment: int) -> Iterator[Record]:
        """Yield the records in a segment, up to the first that is damaged; none if its file is gone.

        Raises:
            OSError: it cannot be read.
        """
        try:
            descriptor = self.disk.open(self.path_of(segment), os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            yield from scan(self.disk, descriptor, 0)
        finally:
            self.disk.close(descriptor)

    def path_of(self, segment: int) -> str:
        return f"{self.path}/{segment}"

    def lock(self, segment: int) -> int | None:
        """Return a file descriptor that is the right to append to the segment, or None: another process has it."""
        return try_lock(self._locks / str(segment))

    def unlock(self, segment: int, lock: int, *, for_good: bool) -> None:
        """Give the right back; *for_good* once the index says that the segment is sealed."""
        if for_good:
            # Whoever locks a file that has lost its name looks into the index next, and finds the segment sealed.
            (self._locks / str(segment)).unlink(missing_ok=True)
        os.close(lock)

    def unlink(self, segment: int) -> None:
        """Remove a segment whose rows are gone, durably (``Index.sync``). Raises OSError."""
        self.disk.unlink(self.path_of(segment))

    def discard(self, segment: int) -> None:
        """Remove a segment in which nothing is; one that stays takes no room."""
        with suppress(OSError):
            self.disk.unlink(self.path_of(segment))


class OpenSegment:
    """A segment to which this process, alone, appends.

    What was appended counts from ``advance`` on; what was appended and is given up is cut off
    or overwritten. Methods raise OSError.

    One thread appends. Another one may bring into the index what was appended, and then only sets
    ``groups_done`` and ``is_given_up``.
    """

    def __init__(self, directory: SegmentDirectory, segment: int, lock: int, fd: int, *, end: int, max_bytes: int):
        self.id = segment
        #: Where the next record begins; all before it is in the index, or on its way there.
        self.end = end
        self.groups_appended = 0
        #: Of which it is known whether they came into the index.
        self.groups_done = 0
        #: Nothing may be appended any more.
        self.is_given_up = False
        self._directory = directory
        self._disk = directory.disk
        self._lock = lock
        self._fd = fd
        self._max_bytes = max_bytes

    @classmethod
    def create(cls, directory: SegmentDirectory, segment: int, *, max_bytes: int) -> OpenSegment:
        """Make the file of a segment, whose id is new."""
        lock = directory.lock(segment)
        if lock is None:
            raise BlockingIOError(f"segment {segment} is new, and yet it is locked")
        try:
            # A file that is there already is of a transaction that a power cut has undone: nothing in it counts.
            fd = directory.disk.open(directory.path_of(segment), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError:
            directory.unlock(segment, lock, for_good=True)
            raise
        opened = cls(directory, segment, lock, fd, end=0, max_bytes=max_bytes)
        try:
            directory.disk.sync_directory(directory.path)
        except OSError:
            opened.close(sealed=True)
            raise
        return opened

    @property
    def is_awaited(self) -> bool:
        """Whether a group is on its way into the index."""
        return self.groups_done < self.groups_appended

    def has_room(self, size_bytes: int) -> bool:
        return self.end + size_bytes <= self._max_bytes

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write records at the end."""
        self._disk.write(self._fd, buffers, self.end)

    def sync(self) -> None:
        """Bring what was written to the disk; once this has failed nobody knows what is there, so begin another."""
        self._disk.sync(self._fd)

    def advance(self, end: int) -> None:
        """Count what was appended."""
        self.end = end

    def cut(self) -> None:
        """Cut off what was appended and does not count."""
        self._disk.truncate(self._fd, self.end)

    def close(self, *, sealed: bool) -> None:
        """Append no more; *sealed* if the index knows that."""
        self._disk.close(self._fd)
        self._directory.unlock(self.id, self._lock, for_good=sealed)


def batches(records: Iterable[Record], *, max_count: int) -> Iterator[list[Record]]:
    """Share out *records* among steps of at most *max_count*, without holding the bytes of all of them."""
    batch: list[Record] = []
    size_bytes = 0
    for record in records:
        batch.append(record)
        size_bytes += record.size
        if len(batch) == max_count or size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def scan(disk: Disk, fd: int, start: int) -> Iterator[Record]:
    """Yield the records of a segment from *start* on, until one is torn or not ours, or the file ends."""
    data, data_start, position = b"", start, start
    while True:
        try:
            record = decode(data, position - data_start, position)
        except Damaged:
            return
        if record is not None:
            yield record
            position += record.size
            continue
        more = disk.read(fd, max(_SCAN_BYTES, MAX_RECORD_BYTES), position)
        if len(more) <= len(data) - (position - data_start):
            return
        data, data_start = more, position
