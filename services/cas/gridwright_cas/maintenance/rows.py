"""Walks along the rows of the index, however many there are."""

from __future__ import annotations

from collections.abc import Iterator

from gridwright.digest import DigestFunction
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.row import Row, unpack_row

#: In one read transaction: a longer one would keep LMDB from using pages again that others free meanwhile.
_ROWS = 5_000


def rows_of(index: Index) -> Iterator[list[tuple[bytes, Row]]]:
    """Yield key and row of all blobs in the order of their keys, in portions; blobs may come and go meanwhile."""
    yield from _rows_between(index, b"", b"\xff" * 8)


def rows_with_prefix(index: Index, function: DigestFunction, prefix: str) -> Iterator[list[tuple[bytes, Row]]]:
    """Yield key and row of those blobs whose hashes, of *function*, begin with the hexadecimal digits *prefix*."""
    first = bytes([function]) + bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    last = bytes([function]) + bytes.fromhex(prefix + "f" * (len(prefix) % 2)) + b"\xff" * 80
    yield from _rows_between(index, first, last)


def _rows_between(index: Index, first: bytes, last: bytes) -> Iterator[list[tuple[bytes, Row]]]:
    start = first
    while True:
        portion: list[tuple[bytes, Row]] = []
        with index.reading() as txn, txn.cursor() as cursor:
            if not cursor.set_range(start):
                return
            for key, value in cursor:
                if key > last or len(portion) == _ROWS:
                    break
                portion.append((key, unpack_row(value)))
        if not portion:
            return
        yield portion
        start = portion[-1][0] + b"\0"
