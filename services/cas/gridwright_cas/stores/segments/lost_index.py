"""An index that was lost is made again from the segments."""

from __future__ import annotations

import os

from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.room import large_holder, segment_holder
from gridwright_cas.stores.segments.row import SegmentState


def note_lost_segments(parts: Parts) -> int:
    """Where the index is new and the directory is not, note all segments as open; return how many.

    Whoever replays open segments next (``SegmentWriter.recover``) then finds all blobs again,
    as last used when they were written. That takes as long as reading all segments, and
    is for the operator who had to remove an index that was cut short or has rotted. Without it
    the segments would be taken for nobody's.

    A large blob is found by its record in a segment; those whose record has gone since are not
    blobs any more. Their files are charged to this process, so they go when it has ended.

    All is noted in one transaction, however many files there are: half of it would be
    taken for all.

    Raises:
        Unavailable, ResourceExhausted: the disk fails.
    """
    index, room = parts.index, parts.room
    with index.reading() as txn:
        if index.segments.have_begun(txn):
            return 0
    with disk_errors():
        segments = _sizes(parts, parts.segments.path, 10)
        large = _sizes(parts, parts.large.path, 16)
    if not segments:
        return 0
    now_ms = parts.now_ms()
    with index.writing() as txn:
        if index.segments.have_begun(txn):
            return 0  # another process was quicker
        for segment, size_bytes in segments.items():
            index.segments.put(txn, segment, SegmentState(0, 0, 0, now_ms, now_ms, 0))
            room.charge_found(txn, segment_holder(segment), size_bytes)
        for file_id, size_bytes in large.items():
            room.charge_found(txn, large_holder(file_id), size_bytes)
        index.segments.begin_after(txn, max(segments))
    return len(segments)


def _sizes(parts: Parts, path: str, base: int) -> dict[int, int]:
    """Return the sizes of the files in a directory whose names are numbers. Raises OSError."""
    disk = parts.disk
    sizes: dict[int, int] = {}
    for name in disk.list_directory(path):
        try:
            number = int(name, base)
        except ValueError:
            continue  # an upload that was never finished, or not ours
        fd = disk.open(f"{path}/{name}", os.O_RDONLY)
        try:
            sizes[number] = disk.size(fd)
        finally:
            disk.close(fd)
    return sizes
