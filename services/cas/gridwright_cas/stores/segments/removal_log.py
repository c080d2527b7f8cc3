"""Which blobs and segments went lately, for all processes of a directory to hear."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

import lmdb

from gridwright.clock import Clock
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.stats import SegmentStats

#: When it was written (Unix milliseconds), and how many segments follow; what is left are keys.
_HEAD = Struct("<QI")
_SEGMENT = Struct("<I")
#: For so long a process may stand still without missing an announcement.
_KEPT_MILLISECONDS = 60_000
#: So that two fit into a page of LMDB: larger ones need pages in a row, for which its file would have to grow.
_ENTRY_BYTES = 1_900
_PAGE_BYTES = 4096
#: What the list may take: a million removals within a minute are as rare as stores that turn over so fast.
_MAX_BYTES = 40 * 1024 * 1024
#: How many entries go for each that comes.
_TRIMMED = 4


class Removed(NamedTuple):
    """What went since the last look."""

    keys: list[bytes]
    #: Segments and large files whose descriptors should be closed.
    segments: list[int]


class RemovalLog:
    """A bounded list of removals in LMDB, written by the evictor and polled by everyone.

    Caches above the store, and open files of segments, outlive what they stand for unless
    their process hears of it, and the evictor may be another process.

    Args:
        max_bytes: the most that it may take of the index.
    """

    def __init__(self, index: Index, clock: Clock, stats: SegmentStats, *, max_bytes: int = _MAX_BYTES) -> None:
        self._index = index
        self._max_entries = 2 * min(max_bytes, _MAX_BYTES) // _PAGE_BYTES
        self._clock = clock
        self._stats = stats
        self._table = index.table(b"removals")
        with index.reading() as txn:
            self._seen = self.end(txn)

    def append(self, txn: lmdb.Transaction[bytes], keys: Collection[bytes], segments: Sequence[int] = ()) -> None:
        """Note, in the transaction that removes them, that these went."""
        if not keys and not segments:
            return
        now = int(self._clock.now() * 1000)
        entries = list(_entries(now, keys, segments))
        self._trim(txn, now, _TRIMMED * len(entries))
        first = self.end(txn) + 1
        for number, entry in enumerate(entries, first):
            txn.put(number.to_bytes(8, "big"), entry, db=self._table)

    def poll(self) -> Removed:
        """Return what went since the last poll of this process: a look of a microsecond if nothing did."""
        removed = Removed([], [])
        with self._index.reading() as txn:
            last = self.end(txn)
            if last == self._seen:
                return removed
            with txn.cursor(db=self._table) as cursor:
                if cursor.set_range((self._seen + 1).to_bytes(8, "big")):
                    if int.from_bytes(cursor.key(), "big") > self._seen + 1:
                        self._stats.missed_removals += 1
                    for _, value in cursor:
                        _decode(value, removed)
            self._seen = last
        return removed

    def end(self, txn: lmdb.Transaction[bytes]) -> int:
        """Return how many entries were ever written: as long as that stays, no row has gone."""
        with txn.cursor(db=self._table) as cursor:
            return int.from_bytes(cursor.key(), "big") if cursor.last() else 0

    def _trim(self, txn: lmdb.Transaction[bytes], now: int, count: int) -> None:
        with txn.cursor(db=self._table) as cursor:
            for _ in range(count):
                # The last entry stays: its number is where the next one goes on.
                if not cursor.first() or txn.stat(self._table)["entries"] <= 1:
                    return
                written, _ = _HEAD.unpack_from(cursor.value())
                if now - written <= _KEPT_MILLISECONDS and txn.stat(self._table)["entries"] < self._max_entries:
                    return
                cursor.delete()


def _entries(now: int, keys: Collection[bytes], segments: Sequence[int]) -> Iterator[bytes]:
    """Yield what is to be written: the segments first, and then keys, as many as an entry may have."""
    entry = bytearray(_HEAD.pack(now, len(segments)) + b"".join(map(_SEGMENT.pack, segments)))
    for key in keys:
        if len(entry) + 1 + len(key) > _ENTRY_BYTES:
            yield bytes(entry)
            entry = bytearray(_HEAD.pack(now, 0))
        entry.append(len(key))
        entry += key
    yield bytes(entry)


def _decode(value: bytes, removed: Removed) -> None:
    _, count = _HEAD.unpack_from(value)
    start = _HEAD.size
    for _ in range(count):
        removed.segments.append(_SEGMENT.unpack_from(value, start)[0])
        start += _SEGMENT.size
    while start < len(value):
        end = start + 1 + value[start]
        removed.keys.append(value[start + 1 : end])
        start = end
