"""Reads what is kept, in the background, and finds what has rotted."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

from gridwright.errors import BlobCorrupted, BlobNotFound, Unavailable
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import large_position
from gridwright_cas.stores.segments.key import digest_of
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine
from gridwright_cas.stores.segments.record import Damaged, payload_of, record_size
from gridwright_cas.stores.segments.row import Row
from gridwright_cas.stores.segments.segment_file import scan

#: So much is read before the scrubber may be asked to pause.
_STEP_BYTES = 1024 * 1024
_POSITION = b"scrubbed up to"
_SEGMENTS = b"S"
_LARGE = b"L"


class Scrubber:
    """Reads all segments and then all large files, over and over, a step at a time.

    A disk that rots is noticed when a blob is read, which may be too late to upload it again.
    Where the scrubber has come to is in the index, so a restart goes on there.

    One thread of one process, that which holds the directory's lock, runs it.
    """

    def __init__(self, parts: Parts, quarantine: Quarantine) -> None:
        self._parts = parts
        self._quarantine = quarantine
        self._round: Generator[int, None, None] | None = None

    def step(self) -> int | None:
        """Read about a MiB; return how many bytes it was, or None at the end of a round.

        Raises:
            Unavailable, ResourceExhausted: the index fails; the next step goes on where the last one began.
        """
        current, self._round = self._round or self._read_all(), None
        # A damaged segment may give nothing to read, which is not the end of the round.
        read_bytes = next(filter(None, current), None)
        if read_bytes is None:
            self._parts.stats.scrub_rounds += 1
            return None
        self._round = current
        self._parts.stats.scrubbed_bytes += read_bytes
        return read_bytes

    def close(self) -> None:
        """Close the file that is being read."""
        if self._round is not None:
            self._round.close()
            self._round = None

    def _read_all(self) -> Generator[int, None, None]:
        position = self._position()
        if not position.startswith(_LARGE):
            yield from self._read_segments(int.from_bytes(position[1:], "big"))
            position = _LARGE
        yield from self._read_large_files(position[1:])
        self._remember(_SEGMENTS)

    def _read_segments(self, first: int) -> Iterator[int]:
        index = self._parts.index
        with index.reading() as txn:
            states = index.segments.states(txn)
        for segment, state in states.items():
            if segment < first:
                continue
            self._remember(_SEGMENTS + segment.to_bytes(8, "big"))
            try:
                if (yield from self._read_segment(segment)) < state.end:
                    yield from self._check_rows(segment)
            except OSError:
                self._parts.stats.scrub_failures += 1

    def _read_segment(self, segment: int) -> Generator[int, None, int]:
        """Read records until one is damaged; return where that is. Raises OSError."""
        disk = self._parts.disk
        try:
            descriptor = disk.open(self._parts.segments.path_of(segment), os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            step_start = end = 0
            for record in scan(disk, descriptor, 0):
                end = record.offset + record.size
                if end - step_start >= _STEP_BYTES:
                    yield end - step_start
                    step_start = end
            yield end - step_start
        finally:
            disk.close(descriptor)
        return end

    def _check_rows(self, segment: int) -> Iterator[int]:
        """Check each blob of a damaged segment by its row: a header that has rotted does not say whose it was."""
        disk = self._parts.disk
        try:
            descriptor = disk.open(self._parts.segments.path_of(segment), os.O_RDONLY)
        except FileNotFoundError:
            descriptor = None
        try:
            for rows in self._parts.index.rows_in(segment):
                read_bytes = 0
                for key, row in rows:
                    size_bytes = record_size(key, row.stored_bytes)
                    data = b"" if descriptor is None else disk.read(descriptor, size_bytes, row.offset)
                    read_bytes += len(data)
                    try:
                        payload_of(data, 0, key, row.stored_bytes)
                    except Damaged:
                        self._take(key, row)
                yield read_bytes
        finally:
            if descriptor is not None:
                disk.close(descriptor)

    def _read_large_files(self, start: bytes) -> Iterator[int]:
        """Read the large files that were not used since this round came to them: those go to the end of the order."""
        index = self._parts.index
        round_ms = self._parts.now_ms()
        while True:
            with index.reading() as txn:
                found = index.oldest_large(txn, 1, start=start)
            if not found or found[0][1].touched_ms > round_ms:
                return
            key, row = found[0]
            yield from self._read_large_file(key, row)
            start = large_position(key, row) + b"\0"
            self._remember(_LARGE + start)

    def _read_large_file(self, key: bytes, row: Row) -> Iterator[int]:
        try:
            file = self._parts.large.open(row.offset, digest_of(key), scrubbing=True)
        except (BlobCorrupted, BlobNotFound):
            self._take(key, row)
            return
        except Unavailable:
            self._parts.stats.scrub_failures += 1
            return
        try:
            for block in file.blocks():
                yield len(block)
            if file.stored_bytes != row.stored_bytes:
                self._take(key, row)
        except BlobCorrupted:
            self._take(key, row)
        except OSError:
            self._parts.stats.scrub_failures += 1
        finally:
            file.close()

    def _take(self, key: bytes, row: Row) -> None:
        """Put a blob into quarantine, unless its row has changed: then it was moved, or dropped, meanwhile."""
        with disk_errors():
            self._quarantine.take(key, row)

    def _position(self) -> bytes:
        with self._parts.index.reading() as txn:
            return txn.get(_POSITION, db=self._parts.index.counters) or _SEGMENTS

    def _remember(self, position: bytes) -> None:
        with self._parts.index.writing() as txn:
            txn.put(_POSITION, position, db=self._parts.index.counters)
