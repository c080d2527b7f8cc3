"""Writes the live blobs of emptying segments once more, so that the segments can go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gridwright.errors import BlobCorrupted, BlobNotFound, ResourceExhausted
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory
from gridwright_cas.maintenance.stored_blobs import stored_at
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.housekeeper import try_to_keep_house
from gridwright_cas.stores.segments.record import Kind, Record, record_size
from gridwright_cas.stores.segments.remover import Tally
from gridwright_cas.stores.segments.row import SegmentState, unpack_row
from gridwright_cas.stores.segments.segment_file import batches

#: Live records that are copied in one step: one write, one synchronisation, one transaction.
_STEP_RECORDS = 500


class Compaction:
    """Rewrites the segments of which less than *live_below* percent is live.

    Nothing is lost, whatever happens: a row names the old record until the copy is on the disk, and a segment goes
    when no row names it. A service may run meanwhile; then the room that its evictor holds back for copies of its
    own is left alone, and without a service it is there for these copies, so that a full store can be compacted.
    """

    def __init__(self, directory: OpenDirectory, messages: Messages, stop: Stop, *, live_below: int) -> None:
        self._directory = directory
        self._index = directory.engine.index
        self._messages = messages
        self._stop = stop
        self._live_below = live_below
        self._keeps_house = False
        self._done_bytes = 0
        self._copied_blobs = 0
        self._copied_bytes = 0

    def run(self) -> None:
        """Rewrite what is worth it.

        Raises:
            ResourceExhausted: there is no room for copies; what was done so far stays done.
        """
        chosen = self._chosen()
        total_bytes = sum(state.end for state in chosen.values())
        before_bytes = self._directory.engine.room.used_bytes
        rewritten = 0
        left: list[int] = []
        try:
            for segment in chosen:
                with self._keeping_house():
                    self._rewrite(segment, total_bytes)
                if self._live_count(segment):
                    left.append(segment)
                    continue
                self._directory.remover.drop_segment(segment, Tally())
                rewritten += 1
        finally:
            self._directory.survivors.close()
        self._messages.result(
            {
                "segments": rewritten,
                "blobs": self._copied_blobs,
                "copied_bytes": self._copied_bytes,
                "freed_bytes": max(0, before_bytes - self._directory.engine.room.used_bytes),
                "damaged": left,
            }
        )

    def _chosen(self) -> dict[int, SegmentState]:
        """Return the segments to rewrite, the emptiest first: they make room for the others."""
        with self._index.reading() as txn:
            states = self._index.segments.states(txn)
        worth_it = [
            (state.live_bytes / state.end, segment)
            for segment, state in states.items()
            if not state.is_open and state.end and state.live_bytes * 100 < self._live_below * state.end
        ]
        return {segment: states[segment] for _, segment in sorted(worth_it)}

    def _rewrite(self, segment: int, total_bytes: int) -> None:
        """Copy what is live in a segment, but for what is damaged."""
        for records in batches(self._scanned(segment), max_count=_STEP_RECORDS):
            self._copy(segment, records)
            self._done_bytes += sum(record.size for record in records)
            self._messages.progress("compacting", self._done_bytes, total_bytes, "bytes")
        if self._live_count(segment):
            # A damaged record, of a removed blob maybe, hides those behind it.
            for records in batches(self._looked_up(segment), max_count=_STEP_RECORDS):
                self._copy(segment, records)

    def _copy(self, segment: int, records: list[Record]) -> None:
        self._stop.check()
        keys = [record.key for record in records]
        rows = [unpack_row(value) if value is not None else None for value in self._index.values_of(keys)]
        live = [
            (record, row)
            for record, row in zip(records, rows, strict=True)
            if row is not None and (row.segment, row.offset) == (segment, record.offset)
        ]
        if live:
            self._check_room()
            self._copied_bytes += self._directory.survivors.keep(live)
            self._copied_blobs += len(live)

    def _looked_up(self, segment: int) -> Iterator[Record]:
        """Yield the records of a segment that rows name and that are not damaged."""
        for rows in self._index.rows_in(segment):
            for key, row in rows:
                try:
                    with stored_at(self._directory, key, row) as stored:
                        payload = stored.read(0, stored.size_bytes)
                except (BlobNotFound, BlobCorrupted):
                    continue
                yield Record(
                    Kind.BLOB, key, row.touched_ms // 1000, payload, row.offset, record_size(key, len(payload))
                )

    def _live_count(self, segment: int) -> int:
        with self._index.reading() as txn:
            state = self._index.segments.state(txn, segment)
        return state.live_count if state is not None else 0

    @contextmanager
    def _keeping_house(self) -> Iterator[None]:
        """Let nobody else evict during one segment, unless a service does already."""
        lock = try_to_keep_house(self._directory.engine.path)
        self._keeps_house = lock is not None
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    def _check_room(self) -> None:
        room = self._directory.engine.room
        if not self._keeps_house and room.free_bytes < room.size.segment_bytes:
            raise ResourceExhausted(
                "the store is full and a service is at work on it, which makes room by itself, by age;"
                " to compact it nevertheless stop the service first"
            )

    def _scanned(self, segment: int) -> Iterator[Record]:
        """Yield the records of blobs in a segment, up to the first that is damaged."""
        with disk_errors():
            for record in self._directory.engine.directory.records_in(segment):
                if record.kind is Kind.BLOB:
                    yield record
