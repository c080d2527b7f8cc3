"""How blobs go: first their rows, for good, then their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.eviction import NEVER_MS
from gridwright_cas.stores.segments.index import MAX_ROWS
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.record import Kind, Record, decode_large
from gridwright_cas.stores.segments.room import KEPT, large_holder, segment_holder
from gridwright_cas.stores.segments.row import Row, unpack_row
from gridwright_cas.stores.segments.segment_file import batches
from gridwright_cas.stores.segments.survivors import Survivors


@dataclass
class Tally:
    """What went."""

    #: What was used after this is counted as ``young``.
    retained_ms: int = NEVER_MS
    blobs: int = 0
    size_bytes: int = 0
    young: int = 0
    #: When the one that was used last was used.
    newest_ms: int = 0
    copied_blobs: int = 0
    copied_bytes: int = 0

    def note(self, row: Row) -> None:
        """Count one that went."""
        self.blobs += 1
        self.size_bytes += row.stored_bytes
        self.young += row.touched_ms > self.retained_ms
        self.newest_ms = max(self.newest_ms, row.touched_ms)


class Remover:
    """Removes rows and files so that whatever moment a crash or a power cut chooses, no row names a file that is gone.

    Rows go in transactions of at most MAX_ROWS, each with the announcement of what went. In the
    last of them what is to be unlinked is noted as *doomed*; that is brought to the disk, and
    then the file goes, and its charge. Whoever comes after a crash finishes what is doomed.

    Args:
        in_use: whether a blob was used just now and its touch is not written yet.
    """

    def __init__(self, parts: Parts, survivors: Survivors, in_use: Callable[[bytes], bool] = lambda _: False) -> None:
        self._parts = parts
        self._survivors = survivors
        self._in_use = in_use
        #: Holders of room whose files go.
        self._doomed = parts.index.table(b"doomed")

    def remove(self, rows: Sequence[tuple[bytes, Row]], tally: Tally, *, used_before_ms: int = NEVER_MS) -> None:
        """Remove small blobs that are where these rows say and were not used since *used_before_ms*.

        Their bytes stay until their segment goes.
        """
        for start in range(0, len(rows), MAX_ROWS):
            self._remove_rows(rows[start : start + MAX_ROWS], tally, used_before_ms, doom=False)

    def drop_large(self, rows: Sequence[tuple[bytes, Row]], tally: Tally, *, used_before_ms: int = NEVER_MS) -> None:
        """Remove large blobs, rows and files, unless they were used at *used_before_ms* or later."""
        self.doom_large(rows, tally, used_before_ms=used_before_ms)
        self.finish_doomed()

    def doom_large(self, rows: Sequence[tuple[bytes, Row]], tally: Tally, *, used_before_ms: int = NEVER_MS) -> None:
        """Like :meth:`drop_large`, but leave the files to ``finish_doomed``."""
        for start in range(0, len(rows), MAX_ROWS):
            self._remove_rows(rows[start : start + MAX_ROWS], tally, used_before_ms, doom=True)

    def drop_segment(
        self, segment: int, tally: Tally, *, keep_after_ms: int = NEVER_MS, must_keep: bool = False
    ) -> None:
        """Copy forward what was used after *keep_after_ms*, remove the other rows, and then the file.

        Raises:
            ResourceExhausted: there is no room for copies, and *must_keep*; otherwise nothing is copied then.
        """
        index = self._parts.index
        for records in self._batches(segment):
            self._keep_announcements(records, must_keep=must_keep)
            blobs = _blobs(records)
            keep_after_ms = self._empty(segment, blobs, tally, keep_after_ms, must_keep=must_keep)
        with index.reading() as txn:
            state = index.segments.state(txn, segment)
        if state is None:
            return
        if state.live_count:
            # A rotten record hides those behind it, a file may be gone: then all rows must be looked at.
            for rows in index.rows_in(segment):
                self.remove(rows, tally)
        with index.writing() as txn:
            index.segments.forget(txn, segment)
            self._parts.removals.append(txn, [], [segment])
            txn.put(segment_holder(segment), b"", db=self._doomed)
        self.finish_doomed()

    def thin_segment(self, segment: int, tally: Tally, *, used_before_ms: int, max_count: int | None = None) -> None:
        """Remove from a segment the rows that were last used before *used_before_ms*, but no more than *max_count*."""
        for records in self._batches(segment):
            rows = [
                (record.key, row)
                for record, row in self._live(segment, _blobs(records))
                if row.touched_ms < used_before_ms
            ]
            if max_count is not None:
                rows = rows[: max_count - tally.blobs]
            self.remove(rows, tally, used_before_ms=used_before_ms)
            if max_count is not None and tally.blobs >= max_count:
                return

    def seal_old_survivors(self) -> None:
        """Let the segment of survivors be evicted in its turn, once all others are younger."""
        with self._parts.index.reading() as txn:
            oldest = self._parts.index.segments.oldest(txn)
        if oldest is not None:
            self._survivors.seal_if_begun_before(oldest.created_ms + 1)

    def doom(self, holders: Sequence[bytes]) -> None:
        """Remove files that are no blobs, unless their room has been settled meanwhile: then they are."""
        room = self._parts.room
        for start in range(0, len(holders), MAX_ROWS):
            with self._parts.index.writing() as txn:
                for holder in holders[start : start + MAX_ROWS]:
                    if room.charge(txn, holder).owner != KEPT:
                        txn.put(holder, b"", db=self._doomed)
        if holders:
            self.finish_doomed()

    def finish_doomed(self) -> None:
        """Unlink what is doomed; those who wait for room are told."""
        index, room = self._parts.index, self._parts.room
        with index.reading() as txn, txn.cursor(db=self._doomed) as cursor:
            holders = list(cursor.iternext(values=False))
        if not holders:
            return
        index.sync()
        for start in range(0, len(holders), MAX_ROWS):
            some = holders[start : start + MAX_ROWS]
            with disk_errors():
                for holder in some:
                    self.unlink(holder)
            with index.writing() as txn:
                for holder in some:
                    room.drop(txn, holder)
                    txn.delete(holder, db=self._doomed)
        room.announce()

    def unlink(self, holder: bytes) -> None:
        """Remove the file of this holder of room, if it is there. Raises OSError."""
        number = int.from_bytes(holder[1:], "big")
        if holder == large_holder(number):
            self._parts.large.remove(number)
        else:
            with suppress(FileNotFoundError):
                self._parts.segments.unlink(number)

    def _remove_rows(
        self, rows: Sequence[tuple[bytes, Row]], tally: Tally, used_before_ms: int, *, doom: bool
    ) -> list[tuple[bytes, Row]]:
        """Remove rows in one transaction; return those that were used too lately."""
        index = self._parts.index
        late: list[tuple[bytes, Row]] = []
        unwritten: list[bytes] = []
        removed: list[tuple[bytes, Row]] = []
        with index.writing() as txn:
            for key, row in rows:
                value = txn.get(key)
                if value is None:
                    continue
                current = unpack_row(value)
                if not row.is_same_place(current):
                    continue
                if current.touched_ms >= used_before_ms:
                    late.append((key, current))
                elif used_before_ms < NEVER_MS and self._in_use(key):
                    late.append((key, current))
                    unwritten.append(key)
                else:
                    removed.append((key, current))
            # Written here, since the thread that writes touches may be waiting for the room that is being made.
            index.touch(txn, unwritten, self._parts.now_ms())
            index.delete(txn, removed)
            self._parts.removals.append(txn, [key for key, _ in removed])
            if doom:
                for _, row in removed:
                    txn.put(large_holder(row.offset), b"", db=self._doomed)
                    self._parts.room.settle(txn, large_holder(row.offset), file_bytes(row.stored_bytes))
        for _, row in removed:
            tally.note(row)
        return late

    def _empty(
        self, segment: int, records: Sequence[Record], tally: Tally, keep_after_ms: int, *, must_keep: bool
    ) -> int:
        """Copy or remove the live ones of *records*; return *keep_after_ms*, or NEVER_MS once there is no room."""
        by_offset = {record.offset: record for record in records}
        rows = [(record.key, Row(0, segment, record.offset, len(record.payload))) for record in records]
        late = self._remove_rows(rows, tally, min(NEVER_MS, keep_after_ms + 1), doom=False)
        hot = [(by_offset[row.offset], row) for _, row in late]
        try:
            for some in _pieces(hot, self._parts.room.size.segment_bytes):
                tally.copied_bytes += self._survivors.keep(some)
                tally.copied_blobs += len(some)
        except ResourceExhausted:
            if must_keep:
                raise
            self._remove_rows([(record.key, row) for record, row in hot], tally, NEVER_MS, doom=False)
            return NEVER_MS
        return keep_after_ms

    def _keep_announcements(self, records: Sequence[Record], *, must_keep: bool) -> None:
        """Copy the records of large files that are there: from them an index that was lost is made again."""
        large = [record for record in records if record.kind is Kind.LARGE]
        if not large:
            return
        with self._parts.index.reading() as txn:
            values = [txn.get(record.key) for record in large]
        live = [
            (record, unpack_row(value))
            for record, value in zip(large, values, strict=True)
            if value is not None and unpack_row(value).offset == decode_large(record.payload).file_id
        ]
        try:
            if live:
                self._survivors.announce(live)
        except ResourceExhausted:
            if must_keep:
                raise

    def _live(self, segment: int, records: Sequence[Record]) -> list[tuple[Record, Row]]:
        """Return those of *records* that rows point to."""
        with self._parts.index.reading() as txn:
            values = [txn.get(record.key) for record in records]
        rows = [unpack_row(value) if value is not None else None for value in values]
        return [
            (record, row)
            for record, row in zip(records, rows, strict=True)
            if row is not None and (row.segment, row.offset) == (segment, record.offset)
        ]

    def _batches(self, segment: int) -> Iterator[list[Record]]:
        """Yield the records in a segment, in batches for one transaction each."""
        with disk_errors():
            yield from batches(self._parts.segments.records_in(segment), max_count=MAX_ROWS)


def _blobs(records: Sequence[Record]) -> Sequence[Record]:
    return [record for record in records if record.kind is Kind.BLOB]


def _pieces(survivors: Sequence[tuple[Record, Row]], segment_bytes: int) -> Iterator[Sequence[tuple[Record, Row]]]:
    """Share out *survivors* in what fits into a segment, each."""
    start = size_bytes = 0
    for end, (record, _) in enumerate(survivors):
        if end > start and size_bytes + record.size > segment_bytes:
            yield survivors[start:end]
            start, size_bytes = end, 0
        size_bytes += record.size
    if start < len(survivors):
        yield survivors[start:]
