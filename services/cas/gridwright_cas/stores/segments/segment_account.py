"""What the index says of a segment and what the account says of its room, changed together."""

from __future__ import annotations

import lmdb

from gridwright.clock import Clock
from gridwright_cas.stores.segments.index import Group, Index, Taken
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.room import Room, large_holder, segment_holder


class SegmentAccount:
    """Brings groups and the end of segments into the index, for who writes them and for who replays them.

    All methods take the transaction of the caller.
    """

    def __init__(self, index: Index, room: Room, clock: Clock) -> None:
        self._index = index
        self._room = room
        self._clock = clock

    def add(self, txn: lmdb.Transaction[bytes], group: Group) -> Taken:
        """Add the rows of a group; its large files are there to stay. Return what was there already."""
        taken = self._index.add(txn, group)
        for _, row in group.large:
            if row.offset not in taken.files:
                self._room.settle(txn, large_holder(row.offset), file_bytes(row.stored_bytes))
        return taken

    def seal(self, txn: lmdb.Transaction[bytes], segment: int, end: int) -> None:
        """Let the segment be what it is; one that has nothing in it is forgotten."""
        if end:
            self._index.segments.seal(txn, segment, int(self._clock.now() * 1000))
            self._room.settle(txn, segment_holder(segment), end)
        else:
            self._index.segments.forget(txn, segment)
            self._room.drop(txn, segment_holder(segment))
