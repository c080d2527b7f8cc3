"""Which blobs and segments went lately, for all processes of a directory to hear."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
#: Each is of one transaction, so of 1,000 keys at most: some 40 MB, as rarely as a store turns over so fast.
_MAX_ENTRIES = 1_024
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
    """

    def __init__(self, index: Index, clock: Clock, stats: SegmentStats) -> None:
        self._index = index
        self._clock = clock
        self._stats = stats
        self._table = index.environment.open_db(b"removals")
        with index.reading() as txn:
            self._seen = self._last(txn)

    def append(self, txn: lmdb.Transaction[bytes], keys: Collection[bytes], segments: Sequence[int] = ()) -> None:
        """Note, in the transaction that removes them, that these went."""
        if not keys and not segments:
            return
        now = int(self._clock.now() * 1000)
        self._trim(txn, now)
        parts = [_HEAD.pack(now, len(segments)), *map(_SEGMENT.pack, segments)]
        for key in keys:
            parts += (len(key).to_bytes(1, "big"), key)
        txn.put((self._last(txn) + 1).to_bytes(8, "big"), b"".join(parts), db=self._table)

    def poll(self) -> Removed:
        """Return what went since the last poll of this process: a look of a microsecond if nothing did."""
        removed = Removed([], [])
        with self._index.reading() as txn:
            last = self._last(txn)
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

    def _trim(self, txn: lmdb.Transaction[bytes], now: int) -> None:
        with txn.cursor(db=self._table) as cursor:
            for _ in range(_TRIMMED):
                # The last entry stays: its number is where the next one goes on.
                if not cursor.first() or txn.stat(self._table)["entries"] <= 1:
                    return
                written, _ = _HEAD.unpack_from(cursor.value())
                if now - written <= _KEPT_MILLISECONDS and txn.stat(self._table)["entries"] < _MAX_ENTRIES:
                    return
                cursor.delete()

    def _last(self, txn: lmdb.Transaction[bytes]) -> int:
        with txn.cursor(db=self._table) as cursor:
            return int.from_bytes(cursor.key(), "big") if cursor.last() else 0


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
