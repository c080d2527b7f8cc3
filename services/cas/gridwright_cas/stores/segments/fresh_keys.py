"""Which blobs were found in the index a moment ago, and need not be looked up again."""

from __future__ import annotations

from collections.abc import Iterable

from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.removal_log import RemovalLog
from gridwright_cas.stores.segments.row import touched_before

#: Keys are forgotten after so long, all at once.
_KEPT_MS = 60_000
#: Or when there are so many, which take about 25 MB.
_MAX_KEYS = 200_000


class FreshKeys:
    """Keys of blobs that are there and were used of late.

    Build tools ask for the same inputs again and again. To find a row costs 0.5 to 0.8 µs, and each look-up
    gives up the interpreter's lock, which takes 0.2 ms to get back from a thread that computes; to
    know the answer costs 0.04 to 0.16 µs.

    It is never wrong. Rows leave the index only in transactions that add to the removal log: whichever
    process removes, what was there is there as long as the log ends where it ended then. And only
    keys whose rows stay fresh for longer than they are kept here are kept, so no touch is left out.

    For one thread, the event loop's.
    """

    def __init__(self, index: Index, log: RemovalLog) -> None:
        self._index = index
        self._log = log
        self._known: set[bytes] = set()
        #: Where the removal log ended when these were found.
        self._end = -1
        #: They are kept from when rows touched before this moment were stale.
        self._since_ms = 0

    def values_of_others(self, keys: Iterable[bytes], stale: bytes, future: bytes) -> dict[bytes, bytes | None]:
        """Return the packed rows of those of *keys* that are not known to be there and fresh.

        Args:
            stale: rows that were touched before this are not fresh, as ``touched_before`` says it.
            future: nor are rows that were touched at this or later, by a clock that has been set back since.

        Raises:
            Unavailable: the index does not answer.
        """
        stale_ms = int.from_bytes(stale, "big")
        known = self._known
        with self._index.reading() as txn:
            end = self._log.end(txn)
            is_recent = self._since_ms <= stale_ms < self._since_ms + _KEPT_MS
            if end != self._end or not is_recent or len(known) > _MAX_KEYS:
                known.clear()
                self._end, self._since_ms = end, stale_ms
            get = txn.get
            values = {key: get(key) for key in keys if key not in known}
        fresh = touched_before(self._since_ms + _KEPT_MS)
        known.update([key for key, value in values.items() if value is not None and fresh <= value < future])
        return values
