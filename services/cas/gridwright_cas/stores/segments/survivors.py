"""Records that outlive their segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lmdb

from gridwright.errors import GridwrightError, ResourceExhausted
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.disk import Buffer
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.record import Record, encode
from gridwright_cas.stores.segments.room import segment_holder
from gridwright_cas.stores.segments.row import Row, SegmentState
from gridwright_cas.stores.segments.segment_file import OpenSegment


class Survivors:
    """The segment to which the evictor copies what was used lately.

    It is apart from those of new blobs: what has been used again once is likely to be used
    again, and segments that die as a whole cost no copying. Copies are synchronised whatever the store's
    durability, as the originals may have been.

    One thread uses it.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._segment: OpenSegment | None = None
        self._begun_ms = 0

    def keep(self, survivors: Sequence[tuple[Record, Row]]) -> int:
        """Copy records, and let their rows name the copies; return how many bytes were written.

        At most MAX_ROWS, and together no more than a segment has, but for a single one.

        Raises:
            ResourceExhausted: there is no room to copy them to.
            Unavailable: the disk fails; all rows are as they were.
        """
        moves: list[tuple[bytes, Row, Row]] = []

        def moved(txn: lmdb.Transaction[bytes], segment: int) -> None:
            self._parts.index.move(txn, [(key, row, new._replace(segment=segment)) for key, row, new in moves])

        with disk_errors():
            offset = self._segment_for(sum(record.size for record, _ in survivors)).end
            for record, row in survivors:
                moves.append((record.key, row, row._replace(offset=offset)))
                offset += record.size
            return self._append(survivors, moved)

    def announce(self, large: Sequence[tuple[Record, Row]]) -> None:
        """Copy the records of large files, whose rows stay as they are; at most MAX_ROWS.

        Raises:
            ResourceExhausted: there is no room to copy them to.
            Unavailable: the disk fails.
        """

        def counted(txn: lmdb.Transaction[bytes], segment: int) -> None:
            self._parts.index.segments.note_large(txn, segment, len(large))

        with disk_errors():
            self._append(large, counted)

    def seal_if_begun_before(self, moment_ms: int) -> None:
        """Seal the segment if it is older than that."""
        if self._begun_ms < moment_ms:
            self.close()

    def close(self) -> None:
        """Seal the segment; the next survivor begins another one."""
        if self._segment is None:
            return
        segment, self._segment = self._segment, None
        index, room = self._parts.index, self._parts.room
        holder = segment_holder(segment.id)
        try:
            with index.writing() as txn:
                if segment.end:
                    # Its place in the order is that of its first record: the blobs in it are older than it is.
                    index.segments.seal(txn, segment.id, self._begun_ms)
                    room.settle(txn, holder, segment.end)
                else:
                    index.segments.forget(txn, segment.id)
        except GridwrightError:
            segment.close(sealed=False)
            raise
        segment.close(sealed=True)
        if not segment.end:
            with disk_errors():
                self._parts.segments.unlink(segment.id)
            room.give_back(holder)

    def _segment_for(self, size_bytes: int) -> OpenSegment:
        if self._segment is not None and not self._segment.has_room(size_bytes):
            self.close()
        if self._segment is None:
            self._segment = self._new_segment(max(size_bytes, self._parts.room.size.segment_bytes))
        return self._segment

    def _new_segment(self, max_bytes: int) -> OpenSegment:
        index, room = self._parts.index, self._parts.room
        with index.writing() as txn:
            number = index.segments.new_id(txn)
        holder = segment_holder(number)
        if not room.try_take(holder, max_bytes, survivors=True):
            raise ResourceExhausted("the store has no room for what should outlive its segment")
        try:
            segment = OpenSegment.create(self._parts.segments, number, max_bytes=max_bytes)
        except OSError:
            room.give_back(holder)
            raise
        self._begun_ms = now_ms = self._parts.now_ms()
        try:
            with index.writing() as txn:
                index.segments.put(txn, number, SegmentState(0, 0, 0, 0, now_ms, 0))
        except GridwrightError:
            segment.close(sealed=True)
            room.give_back(holder)
            raise
        return segment

    def _append(
        self, records: Sequence[tuple[Record, Row]], change: Callable[[lmdb.Transaction[bytes], int], None]
    ) -> int:
        """Append copies, as last used when their rows say, and let the index know; return how many bytes it was."""
        size_bytes = sum(record.size for record, _ in records)
        segment = self._segment_for(size_bytes)
        buffers: list[Buffer] = []
        for record, row in records:
            buffers += (encode(record.kind, record.key, record.payload, row.touched_ms // 1000), record.payload)
        end = segment.end + size_bytes
        index = self._parts.index
        try:
            segment.append(buffers)
            segment.sync()
            with index.writing() as txn:
                change(txn, segment.id)
                state = index.segments.state(txn, segment.id)
                if state is not None:
                    index.segments.put(txn, segment.id, state._replace(end=end))
        except (OSError, GridwrightError):
            # Whether it took effect is for a replay to find out; nothing is appended to it any more.
            self._segment = None
            segment.close(sealed=False)
            raise
        segment.advance(end)
        return size_bytes
