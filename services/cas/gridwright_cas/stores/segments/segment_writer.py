"""Groups of records into this process's open segment and into the index."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from gridwright.clock import Clock
from gridwright.errors import GridwrightError
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import MAX_ROWS, Group, Index
from gridwright_cas.stores.segments.record import (
    MAX_HEAD_BYTES,
    MAX_LARGE_RECORD_BYTES,
    Kind,
    LargeFileRef,
    encode,
    encode_large,
    record_size,
)
from gridwright_cas.stores.segments.room import Room, segment_holder
from gridwright_cas.stores.segments.row import Row, SegmentState, row_value, unpack_row
from gridwright_cas.stores.segments.segment_account import SegmentAccount
from gridwright_cas.stores.segments.segment_file import OpenSegment, SegmentDirectory


class Writes(NamedTuple):
    """What is to be kept, or touched, together, all of it or nothing."""

    blobs: Sequence[tuple[bytes, bytes]] = ()
    large: Sequence[tuple[bytes, LargeFileRef]] = ()
    touched: Sequence[bytes] = ()

    @property
    def row_count(self) -> int:
        return len(self.blobs) + len(self.large)

    @property
    def max_record_bytes(self) -> int:
        """What the records may take at most."""
        payload_bytes = sum([len(payload) for _, payload in self.blobs])
        return payload_bytes + len(self.blobs) * MAX_HEAD_BYTES + len(self.large) * MAX_LARGE_RECORD_BYTES


class Appended(NamedTuple):
    """A group whose records are on the disk, and which the index does not know yet."""

    segment: OpenSegment
    group: Group
    touched: Sequence[bytes]


class SegmentWriter:
    """Appends to the open segment of this process, and begins another one when it is full.

    One thread calls ``append`` while another one calls ``commit`` for the groups before, in the
    same order: each waits for the disk, so together they keep twice as much in the same time.

    What a failed append leaves in the file is cut off. A segment is given up if it could not be
    synchronised, since the kernel forgets which of its pages did not reach the disk, and if a group
    could not be committed, since others may lie behind it. It is sealed, and cut to what the index
    knows, once nothing is on its way any more; after a kill before that, a replay may keep
    blobs of which their uploaders were told that they failed.
    """

    def __init__(
        self,
        index: Index,
        directory: SegmentDirectory,
        room: Room,
        clock: Clock,
        *,
        segment_bytes: int,
        durable: bool,
    ) -> None:
        self._index = index
        self._account = SegmentAccount(index, room, clock)
        self._directory = directory
        self._room = room
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._durable = durable
        #: This and the next belong to the thread that appends.
        self._segment: OpenSegment | None = None
        #: Segments that are not to be appended to any more, which the index could not be told yet.
        self._given_up: list[OpenSegment] = []

    def append(self, writes: Writes) -> Appended:
        """Bring the records of *writes* to the disk; ``commit`` is to follow.

        Raises:
            ResourceExhausted: there is no room.
            Unavailable: the disk fails.
        """
        now_ms = self._now_ms()
        rows = writes.row_count
        self._room.expect_rows(rows)
        with ExitStack() as unless_appended, disk_errors():
            unless_appended.callback(self._room.rows_came, rows)
            segment = self._segment_for(writes)
            data, group = _encoded(writes, segment, now_ms)
            self._append(segment, data)
            segment.advance(group.end)
            unless_appended.pop_all()
        segment.groups_appended += 1
        return Appended(segment, group, writes.touched)

    def commit(self, appended: Appended) -> set[int]:
        """Let the index know a group; return the ids of large files whose blobs were there already.

        A commit that fails may have kept some of the blobs, but no large file.

        Raises:
            ResourceExhausted: there is no room.
            Unavailable: the disk fails.
        """
        segment, group, touched = appended
        nobodys_files: set[int] = set()
        try:
            for part in _transactions(group):
                with self._index.writing() as txn:
                    taken = self._account.add(txn, part)
                    self._index.touch(txn, taken.keys, group.newest_touch_ms)
                    if part.end:
                        self._index.touch(txn, touched, group.newest_touch_ms)
                nobodys_files |= taken.files
        except GridwrightError:
            segment.is_given_up = True
            raise
        finally:
            segment.groups_done += 1
            self._room.rows_came(group.row_count)
        return nobodys_files

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that these blobs were used now, at most ``MAX_ROWS``.

        Raises:
            ResourceExhausted, Unavailable: the disk fails.
        """
        with self._index.writing() as txn:
            self._index.touch(txn, keys, self._now_ms())

    def close(self) -> None:
        """Seal the segment; the next process begins another one. Nothing may be on its way."""
        if self._segment is not None:
            self._give_up(self._segment)
        try:
            with disk_errors():
                self._seal_given_up()
        except GridwrightError:
            # The index cannot be written; whoever comes next finds a segment that a dead process left open.
            for segment in self._given_up:
                segment.close(sealed=False)

    def _segment_for(self, writes: Writes) -> OpenSegment:
        """Return a segment with room for *writes*; only the first record of a segment may be larger than it."""
        size_bytes = writes.max_record_bytes
        segment = self._segment
        if segment is not None and (segment.is_given_up or not segment.has_room(size_bytes)):
            self._give_up(segment)
        if self._given_up:
            self._seal_given_up()
        if self._segment is None:
            self._segment = self._new_segment(max(size_bytes, self._segment_bytes))
        return self._segment

    def _new_segment(self, max_bytes: int) -> OpenSegment:
        with self._index.writing() as txn:
            segment = self._index.segments.new_id(txn)
        holder = segment_holder(segment)
        self._room.take(holder, max_bytes)
        try:
            opened = OpenSegment.create(self._directory, segment, max_bytes=max_bytes)
        except OSError:
            self._room.give_back(holder)
            raise
        try:
            now_ms = self._now_ms()
            with self._index.writing() as txn:
                self._index.segments.put(txn, segment, SegmentState(0, 0, 0, now_ms, now_ms, 0))
        except GridwrightError:
            opened.close(sealed=True)
            self._room.give_back(holder)
            raise
        return opened

    def _append(self, segment: OpenSegment, data: bytes) -> None:
        try:
            segment.append([data])
        except OSError:
            self._cut(segment)
            raise
        if not self._durable:
            return
        try:
            segment.sync()
        except OSError:
            self._cut(segment)
            self._give_up(segment)
            raise

    def _cut(self, segment: OpenSegment) -> None:
        """Cut off what does not count, so that no replay finds it."""
        try:
            segment.cut()
        except OSError:
            self._give_up(segment)

    def _give_up(self, segment: OpenSegment) -> None:
        if segment is self._segment:
            self._segment = None
            self._given_up.append(segment)

    def _seal_given_up(self) -> None:
        """Seal what was given up, except for segments of which groups are yet to be committed: their turn comes."""
        for segment in [one for one in self._given_up if not one.is_awaited]:
            with self._index.reading() as txn:
                state = self._index.segments.state(txn, segment.id)
            end = state.end if state is not None else 0
            if end < segment.end:
                segment.advance(end)
                segment.cut()
            with self._index.writing() as txn:
                self._account.seal(txn, segment.id, end)
            self._given_up.remove(segment)
            segment.close(sealed=True)
            if end == 0:
                self._directory.discard(segment.id)

    def _now_ms(self) -> int:
        return int(self._clock.now() * 1000)


def _transactions(group: Group) -> list[Group]:
    """Share out *group* among transactions; the last one moves the replay offset and announces the large files."""
    if len(group.blobs) <= MAX_ROWS:
        return [group]
    parts: list[Group] = []
    left_bytes = group.blob_bytes
    for start in range(0, len(group.blobs), MAX_ROWS):
        blobs = group.blobs[start : start + MAX_ROWS]
        blob_bytes = sum([record_size(key, unpack_row(value).stored_bytes) for key, value in blobs])
        left_bytes -= blob_bytes
        parts.append(group._replace(end=0, blobs=blobs, blob_bytes=blob_bytes, large=()))
    assert left_bytes == 0
    parts[-1] = parts[-1]._replace(end=group.end, large=group.large)
    return parts


def _encoded(writes: Writes, segment: OpenSegment, now_ms: int) -> tuple[bytes, Group]:
    """Return the bytes to append, and the rows, in the order of their keys, that go with them."""
    pieces: list[bytes] = []
    rows: list[tuple[bytes, bytes]] = []
    number, offset, touched = segment.id, segment.end, now_ms // 1000
    kind = Kind.BLOB
    for key, payload in writes.blobs:
        head = encode(kind, key, payload, touched)
        pieces += (head, payload)
        rows.append((key, row_value(now_ms, number, offset, len(payload), 0)))
        offset += len(head) + len(payload)
    blob_bytes = offset - segment.end
    large: list[tuple[bytes, Row]] = []
    for key, reference in writes.large:
        payload = encode_large(reference)
        head = encode(Kind.LARGE, key, payload, touched)
        pieces += (head, payload)
        large.append((key, Row(now_ms, 0, *reference)))
        offset += len(head) + len(payload)
    # Neighbours in the tree share pages, and a page is copied once per transaction.
    rows.sort()
    # In one piece: for each system call the thread must get the interpreter's lock back from a busy event loop.
    return b"".join(pieces), Group(number, offset, rows, blob_bytes, now_ms, large)
