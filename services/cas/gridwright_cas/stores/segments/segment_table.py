"""What the index knows of each segment."""

from __future__ import annotations

import lmdb

from gridwright_cas.stores.segments.row import SegmentState, pack_segment, unpack_segment

_LAST_SEGMENT = b"last segment"
#: Followed by the segment.
_LARGE_RECORDS = b"large records "


class SegmentTable:
    """Id → SegmentState, hundreds of rows at most; all methods take the transaction of the caller.

    Tables: ``segments``, and in ``counters`` the last id that was given out, and of each segment that has any
    how many records of large files it has.
    """

    def __init__(self, table: lmdb._Database, counters: lmdb._Database) -> None:
        self._table = table
        self._counters = counters

    def states(self, txn: lmdb.Transaction[bytes]) -> dict[int, SegmentState]:
        """Return all segments, oldest first."""
        with txn.cursor(db=self._table) as cursor:
            return {int.from_bytes(key, "big"): unpack_segment(value) for key, value in cursor}

    def state(self, txn: lmdb.Transaction[bytes], segment: int) -> SegmentState | None:
        value = txn.get(_key(segment), db=self._table)
        return unpack_segment(value) if value is not None else None

    def oldest(self, txn: lmdb.Transaction[bytes]) -> SegmentState | None:
        """Return what is known of the oldest segment, or None if there is none."""
        with txn.cursor(db=self._table) as cursor:
            return unpack_segment(cursor.value()) if cursor.first() else None

    def put(self, txn: lmdb.Transaction[bytes], segment: int, state: SegmentState) -> None:
        txn.put(_key(segment), pack_segment(state), db=self._table)

    def change(
        self,
        txn: lmdb.Transaction[bytes],
        segment: int,
        live_bytes: int,
        live_count: int,
        *,
        touch_ms: int = 0,
        end: int = 0,
    ) -> None:
        """Note that rows have come or gone, that one was used, or that the replay offset is *end* now."""
        state = self.state(txn, segment)
        if state is None:  # dropped by the evictor
            return
        changed = state._replace(
            end=max(state.end, end),
            live_bytes=max(0, state.live_bytes + live_bytes),
            live_count=max(0, state.live_count + live_count),
            newest_touch_ms=max(state.newest_touch_ms, touch_ms),
        )
        if changed != state:
            self.put(txn, segment, changed)

    def note_large(self, txn: lmdb.Transaction[bytes], segment: int, count: int) -> None:
        """Note that so many records of large files have come into the segment."""
        if count:
            total = self.large_count(txn, segment) + count
            txn.put(_LARGE_RECORDS + _key(segment), total.to_bytes(8, "big"), db=self._counters)

    def large_count(self, txn: lmdb.Transaction[bytes], segment: int) -> int:
        """Return how many records of large files are in the segment, whatever became of the files."""
        return int.from_bytes(txn.get(_LARGE_RECORDS + _key(segment), db=self._counters) or b"", "big")

    def new_id(self, txn: lmdb.Transaction[bytes]) -> int:
        """Return an id, 1 or more, that no segment has had before."""
        segment = int.from_bytes(txn.get(_LAST_SEGMENT, db=self._counters) or b"", "big") + 1
        self.begin_after(txn, segment)
        return segment

    def have_begun(self, txn: lmdb.Transaction[bytes]) -> bool:
        """Whether any segment was ever begun; without one the index is new, or was lost."""
        return txn.get(_LAST_SEGMENT, db=self._counters) is not None

    def begin_after(self, txn: lmdb.Transaction[bytes], segment: int) -> None:
        """Let new segments have ids beyond *segment*."""
        txn.put(_LAST_SEGMENT, segment.to_bytes(8, "big"), db=self._counters)

    def seal(self, txn: lmdb.Transaction[bytes], segment: int, now_ms: int) -> None:
        """Note that nothing will be appended any more."""
        state = self.state(txn, segment)
        if state is not None and state.is_open:
            self.put(txn, segment, state._replace(sealed_ms=max(1, now_ms)))

    def forget(self, txn: lmdb.Transaction[bytes], segment: int) -> None:
        """Forget a segment whose rows are all gone."""
        txn.delete(_key(segment), db=self._table)
        txn.delete(_LARGE_RECORDS + _key(segment), db=self._counters)


def _key(segment: int) -> bytes:
    return segment.to_bytes(4, "big")
