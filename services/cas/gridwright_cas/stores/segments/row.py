"""What the index says about a blob, and about a segment; and the bytes of both.

Times are Unix milliseconds. A packed row begins with its last touch, big-endian, so that packed
rows can be compared with a moment as they are: see ``touched_before``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_ROW = struct.Struct(">QIQQB")
_SEGMENT = struct.Struct(">IIIQQQ")
_TOUCH = struct.Struct(">Q")


class Row(NamedTuple):
    """Where a blob is, and when it was last used."""

    touched_ms: int
    #: The segment that has its record, or 0: it is a large file.
    segment: int
    #: Where its record begins in the segment; of a large file, the file's id.
    offset: int
    #: How many bytes are kept under the digest; those of the blob itself are in the key.
    stored_bytes: int
    codec: int = 0

    @property
    def is_large(self) -> bool:
        return self.segment == 0

    def is_same_place(self, other: Row | None) -> bool:
        """Whether both rows name the same bytes; a touch may lie between them."""
        return other is not None and self[1:3] == other[1:3]


class SegmentState(NamedTuple):
    """What is known of a segment without reading it."""

    #: The replay offset: the index knows all records before it, and nothing after it counts as kept.
    end: int
    #: Bytes and number of the records that rows point to.
    live_bytes: int
    live_count: int
    #: When any of its records was last used.
    newest_touch_ms: int
    created_ms: int
    #: 0: some process appends to it, or has died doing so.
    sealed_ms: int

    @property
    def is_open(self) -> bool:
        return self.sealed_ms == 0


def pack_row(row: Row) -> bytes:
    return _ROW.pack(*row)


def unpack_row(value: bytes) -> Row:
    return Row._make(_ROW.unpack(value))


#: ``row_value(touched_ms, segment, offset, stored_bytes, codec)`` and back, where a Row would cost too much.
row_value = _ROW.pack
row_parts = _ROW.unpack


def touched_before(moment_ms: int) -> bytes:
    """Return what packed rows are smaller than, if they were last touched before this moment."""
    return _TOUCH.pack(max(0, moment_ms))


def pack_segment(state: SegmentState) -> bytes:
    return _SEGMENT.pack(*state)


def unpack_segment(value: bytes) -> SegmentState:
    return SegmentState._make(_SEGMENT.unpack(value))
