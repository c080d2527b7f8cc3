"""What processes left half done when they died, brought into the index."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from gridwright.clock import Clock
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import MAX_ROWS, Group, Index
from gridwright_cas.stores.segments.record import Kind, Record, decode_large
from gridwright_cas.stores.segments.room import Room, large_holder
from gridwright_cas.stores.segments.row import Row, pack_row
from gridwright_cas.stores.segments.segment_account import SegmentAccount
from gridwright_cas.stores.segments.segment_file import SegmentDirectory, batches, scan


class Recovery:
    """Replays the segments that nobody appends to any more, and seals them.

    What lies beyond the replay offset of a segment was acknowledged, or was about to be: it is read once
    more and its rows are added; a torn record, and what is behind it, is cut off.

    Any thread of any process may do so; each segment has a lock.
    """

    def __init__(self, index: Index, directory: SegmentDirectory, room: Room, clock: Clock, *, durable: bool) -> None:
        self._index = index
        self._directory = directory
        self._room = room
        self._account = SegmentAccount(index, room, clock)
        self._durable = durable
        self._doomed = index.table(b"doomed")
        self._lock = threading.Lock()

    def run(self) -> None:
        """Replay and seal the segments that processes left open when they died, unless another one is at it.

        Takes as long as reading what these processes wrote and did not commit: one group each.

        Raises:
            ResourceExhausted, Unavailable: the disk fails.
        """
        with self._lock, disk_errors():
            with self._index.reading() as txn:
                states = self._index.segments.states(txn)
            for segment, state in states.items():
                if not state.is_open or (lock := self._directory.lock(segment)) is None:
                    continue
                sealed = False
                try:
                    self._replay(segment)
                    sealed = True
                finally:
                    self._directory.unlock(segment, lock, for_good=sealed)

    def _replay(self, segment: int) -> None:
        """Bring what is beyond the replay offset into the index, cut off what is torn, and seal."""
        disk = self._directory.disk
        with self._index.reading() as txn:
            state = self._index.segments.state(txn, segment)
        if state is None or not state.is_open:
            return  # another process was quicker
        try:
            fd = disk.open(self._directory.path_of(segment), os.O_RDWR)
        except FileNotFoundError:
            with self._index.writing() as txn:
                self._account.seal(txn, segment, state.end)
            return
        end = state.end
        try:
            if self._durable:
                disk.sync(fd)  # before a row names what a killed process may have left in the page cache only
            for records in batches(scan(disk, fd, end), max_count=MAX_ROWS):
                self._restore(segment, records)
                end = records[-1].offset + records[-1].size
            if disk.size(fd) > end:
                disk.truncate(fd, end)
                if self._durable:
                    disk.sync(fd)
        finally:
            disk.close(fd)
        with self._index.writing() as txn:
            self._account.seal(txn, segment, end)
        if end == 0:
            self._directory.discard(segment)

    def _restore(self, segment: int, records: Sequence[Record]) -> None:
        blobs: list[tuple[bytes, bytes]] = []
        large: list[tuple[bytes, Row]] = []
        blob_bytes = 0
        for record in records:
            touched_ms = record.touched * 1000
            if record.kind is Kind.BLOB:
                row = Row(touched_ms, segment, record.offset, len(record.payload))
                blobs.append((record.key, pack_row(row)))
                blob_bytes += record.size
                continue
            row = Row(touched_ms, 0, *decode_large(record.payload))
            if self._has_file(row):
                large.append((record.key, row))
        end = records[-1].offset + records[-1].size
        with self._index.writing() as txn:
            newest_ms = max([record.touched for record in records]) * 1000
            self._account.add(txn, Group(segment, end, blobs, blob_bytes, newest_ms, large))

    def _has_file(self, row: Row) -> bool:
        """Whether the file that a record announces is there to stay.

        Without a charge there is none: it was discarded as nobody's. One that is doomed goes.
        """
        holder = large_holder(row.offset)
        with self._index.reading() as txn:
            return self._room.charge(txn, holder).size_bytes > 0 and txn.get(holder, db=self._doomed) is None
