"""How large LMDB's file is, and how large it is going to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import lmdb

from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import MAX_ROWS, Index

#: What a row takes, with what the pages of its tree leave free: 170 bytes were measured, for SHA256.
ROW_BYTES = 170
#: Pages that one transaction copies at most: a leaf for each row, and those above and beside.
_COPIED_PAGES = MAX_ROWS + 64
#: A page that was replaced is used again by the transaction after the next.
_GENERATIONS = 2
#: The tables of which a transaction may change every page, and the others that may become large.
_SCATTERED = (b"rows", b"large_by_touch")
_OTHERS = (b"charges", b"removals", b"segments", b"counters", b"doomed", b"partials")


class IndexSize(NamedTuple):
    """The file at one moment."""

    #: What it takes of the disk. It never shrinks while it is open.
    file_bytes: int
    #: The pages of it that hold something.
    used_bytes: int
    #: Those of them that one transaction may replace.
    scattered_bytes: int
    page_bytes: int

    @property
    def free_bytes(self) -> int:
        """What a compact copy of it would save."""
        return max(0, self.file_bytes - self.used_bytes)

    def needed_bytes(self, new_rows: int = 0) -> int:
        """Return how large a file is that has so many rows more, however they are written.

        A transaction writes copies of the pages that it changes, and those of the transaction before it cannot
        be used for that: an index in which each transaction changes everything takes three times what it holds.
        """
        new_bytes = new_rows * ROW_BYTES
        copied_bytes = min(self.scattered_bytes + new_bytes, _COPIED_PAGES * self.page_bytes)
        return self.used_bytes + new_bytes + _GENERATIONS * copied_bytes


class IndexFile:
    """Looks at the file of an index: some microseconds, so it is asked rather than remembered."""

    def __init__(self, index: Index, path: str) -> None:
        self._environment = index.environment
        self._path = path
        self._scattered = [index.table(name) for name in _SCATTERED]
        self._others = [index.table(name) for name in _OTHERS]

    def size(self, txn: lmdb.Transaction[bytes]) -> IndexSize:
        """Return its size.

        Raises:
            Unavailable: the disk does not answer.
        """
        page_bytes = int(self._environment.stat()["psize"])
        scattered_bytes = page_bytes * _pages(txn, self._scattered)
        used_bytes = page_bytes * _pages(txn, self._others) + scattered_bytes
        with disk_errors():
            file_bytes = os.stat(self._path).st_blocks * 512
        return IndexSize(file_bytes, used_bytes, scattered_bytes, page_bytes)


def _pages(txn: lmdb.Transaction[bytes], tables: Sequence[lmdb._Database]) -> int:
    stats = [txn.stat(table) for table in tables]
    return sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
