"""Checks everything that a store holds: every record and block, and every blob's hash."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gridwright.errors import BlobCorrupted, BlobNotFound, Unavailable
from gridwright_cas.maintenance.contents import Stored, is_blob
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.rows import rows_of
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory, quarantine_of
from gridwright_cas.maintenance.stored_blobs import SmallBlob, stored_at
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.key import digest_of
from gridwright_cas.stores.segments.record import Kind, Record
from gridwright_cas.stores.segments.row import Row, SegmentState, unpack_row
from gridwright_cas.stores.segments.segment_file import scan

#: So many records are compared with the index at once.
_TOGETHER = 256


class _Bad(NamedTuple):
    """A blob that is not what its row promises."""

    key: bytes
    row: Row
    why: str
    #: The disk did not answer: it may next time.
    is_disk: bool = False


@dataclass
class _Findings:
    """What one segment, or some large files, hold."""

    blobs: int = 0
    size_bytes: int = 0
    bad: list[_Bad] = field(default_factory=list)


class Verification:
    """One check of a whole store, in the order of the disk: segments from end to end, then large files.

    What a row points to is checked; records that nothing points to any more are not. A service
    may run on the directory: what was moved or removed since is not held against it.

    Args:
        repair: take bad blobs out of service, into the quarantine.
    """

    def __init__(self, directory: OpenDirectory, messages: Messages, stop: Stop, *, repair: bool) -> None:
        self._directory = directory
        self._index = directory.engine.index
        self._messages = messages
        self._stop = stop
        self._quarantine = quarantine_of(directory) if repair else None
        self._result = dict.fromkeys(("blobs", "bytes", "bad", "repaired"), 0)
        self._done_bytes = 0
        self._total_bytes = 0

    def run(self) -> None:
        """Check everything; say what is bad, and how much there was."""
        expected, large_bytes = self._count()
        states = self._states()
        self._total_bytes = large_bytes + sum(states[segment].end for segment in expected if segment in states)
        for segment in sorted(expected):
            self._report(self._check_segment(segment, expected[segment]))
        for found in self._check_large():
            self._report(found)
        self._messages.result(self._result)

    def _count(self) -> tuple[Counter[int], int]:
        """Return how many rows point into each segment, and how many bytes large blobs have."""
        expected: Counter[int] = Counter()
        large_bytes = 0
        for portion in rows_of(self._index):
            self._stop.check()
            expected.update(row.segment for _, row in portion if not row.is_large)
            large_bytes += sum(row.stored_bytes for _, row in portion if row.is_large)
        return expected, large_bytes

    def _states(self) -> dict[int, SegmentState]:
        with self._index.reading() as txn:
            return self._index.segments.states(txn)

    def _check_segment(self, segment: int, expected: int) -> _Findings:
        """Read a segment from end to end; if that does not meet all of its blobs, look for each of them."""
        found = _Findings()
        try:
            for records in self._records(segment):
                for record, row in self._live(segment, records):
                    self._check(record.key, row, SmallBlob(record.payload), found)
        except Unavailable:
            return self._check_one_by_one(segment)
        state = self._states().get(segment)
        # A service may have moved or removed some since they were counted.
        if found.blobs < min(expected, state.live_count if state is not None else expected):
            return self._check_one_by_one(segment)
        return found

    def _check_one_by_one(self, segment: int) -> _Findings:
        found = _Findings()
        for rows in self._index.rows_in(segment):
            for key, row in rows:
                self._check_at(key, row, found)
        return found

    def _check_large(self) -> Iterator[_Findings]:
        for portion in rows_of(self._index):
            found = _Findings()
            for key, row in portion:
                if row.is_large:
                    self._check_at(key, row, found)
                    self._progress(row.stored_bytes)
            yield found

    def _check_at(self, key: bytes, row: Row, found: _Findings) -> None:
        """Check one blob where its row says that it is."""
        self._stop.check()
        try:
            with stored_at(self._directory, key, row) as stored:
                self._check(key, row, stored, found)
        except BlobNotFound:
            self._note(_Bad(key, row, "its file is gone"), found)
        except BlobCorrupted:
            self._note(_Bad(key, row, "wrong checksum"), found)
        except Unavailable as error:
            self._note(_Bad(key, row, str(error), is_disk=True), found)

    def _check(self, key: bytes, row: Row, stored: Stored, found: _Findings) -> None:
        if is_blob(digest_of(key), stored):
            found.blobs += 1
            found.size_bytes += row.stored_bytes
        else:
            self._note(_Bad(key, row, "wrong hash: other bytes were stored under this digest"), found)

    def _note(self, bad: _Bad, found: _Findings) -> None:
        """Note what is bad, unless it has been moved or removed meanwhile."""
        if bad.row.is_same_place(self._index.row_of(bad.key)):
            found.blobs += 1
            found.size_bytes += bad.row.stored_bytes
            found.bad.append(bad)

    def _report(self, found: _Findings) -> None:
        self._result["blobs"] += found.blobs
        self._result["bytes"] += found.size_bytes
        self._result["bad"] += len(found.bad)
        for key, row, why, is_disk in found.bad:
            repaired = self._quarantine is not None and not is_disk and self._quarantine.take(key, row)
            self._result["repaired"] += repaired
            where = f"large file {row.offset:016x}" if row.is_large else f"segment {row.segment} at {row.offset}"
            self._messages.say("bad", {"digest": str(digest_of(key)), "why": why, "where": where, "repaired": repaired})

    def _records(self, segment: int) -> Iterator[list[Record]]:
        """Yield the records of blobs in a segment, up to the first that is damaged.

        Raises:
            Unavailable: the disk does not answer.
        """
        disk = self._directory.parts.disk
        with disk_errors():
            try:
                fd = disk.open(self._directory.engine.directory.path_of(segment), os.O_RDONLY)
            except FileNotFoundError:
                return
            try:
                records: list[Record] = []
                for record in scan(disk, fd, 0):
                    self._stop.check()
                    self._progress(record.size)
                    if record.kind is Kind.BLOB:
                        records.append(record)
                    if len(records) == _TOGETHER:
                        yield records
                        records = []
                yield records
            finally:
                disk.close(fd)

    def _live(self, segment: int, records: list[Record]) -> list[tuple[Record, Row]]:
        values = self._index.values_of([record.key for record in records])
        rows = [unpack_row(value) if value is not None else None for value in values]
        return [
            (record, row)
            for record, row in zip(records, rows, strict=True)
            if row is not None and (row.segment, row.offset) == (segment, record.offset)
        ]

    def _progress(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._messages.progress("checking", self._done_bytes, max(self._done_bytes, self._total_bytes), "bytes")
