"""What a power cut does to an LMDB environment: ``metasync=False`` may undo its last transaction.

LMDB's data file begins with two pages that each name the root of one state; transaction n
writes page n mod 2. With ``metasync=False`` the rest of the transaction is on the disk before
that page is written, and the page itself comes out with the next transaction. So a power cut
leaves either the last state or the one before it, and that one is whole: LMDB does not use
its pages again before.
"""

from __future__ import annotations

import struct

DATA_FILE = "data.mdb"

#: Where these are in a page (LMDB 0.9, 64 bits): what follows the page's own header, and in it the page size.
_META = slice(16, 152)
_PAGE_SIZE = struct.Struct("<I")
_PAGE_SIZE_AT = 40
_TRANSACTION = struct.Struct("<Q")
_TRANSACTION_AT = 144


def last_commit(data: bytes) -> int:
    """Return the number of the newest transaction in the data file."""
    return max(_commits(data))


def without_last_commit(data: bytes) -> bytes:
    """Return the data file with its newest state undone."""
    first, second = _commits(data)
    older, newer = (0, 1) if first < second else (1, 0)
    page_bytes = _page_bytes(data)
    undone = bytearray(data)
    undone[newer * page_bytes + _META.start : newer * page_bytes + _META.stop] = data[
        older * page_bytes + _META.start : older * page_bytes + _META.stop
    ]
    return bytes(undone)


def _commits(data: bytes) -> tuple[int, int]:
    (first,) = _TRANSACTION.unpack_from(data, _TRANSACTION_AT)
    (second,) = _TRANSACTION.unpack_from(data, _page_bytes(data) + _TRANSACTION_AT)
    return first, second


def _page_bytes(data: bytes) -> int:
    (page_bytes,) = _PAGE_SIZE.unpack_from(data, _PAGE_SIZE_AT)
    assert isinstance(page_bytes, int)
    return page_bytes
