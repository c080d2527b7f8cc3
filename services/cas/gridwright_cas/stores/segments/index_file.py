"""Whether LMDB's data file is as long as it says, since to read beyond its end kills the process (SIGBUS)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Each of the first two pages describes one state, and that of the larger transaction counts (LMDB 0.9, 64 bits).
_MAGIC_AT, _PAGE_BYTES_AT, _LAST_PAGE_AT = 16, 40, 136
_MAGIC = 0xBEEFC0DE
_NUMBER = struct.Struct("=I")
_LAST_PAGE_AND_TRANSACTION = struct.Struct("=QQ")
_HEAD_BYTES = 2 * 65_536


@contextmanager
def as_long_as_it_says(path: Path) -> Iterator[bool]:
    """Let the file be as long as it says while the block opens it; say whether its contents must be looked at.

    A page at the end that was taken and given back in one transaction is never written, so a
    file may rightly be short, or it may have been cut off, by a copy that was not finished say. Made long
    enough it can be read without harm: what was cut off is then zeros, which LMDB tells
    from pages. If the block fails the file gets its former length back.

    Raises:
        OSError: it cannot be read, or made longer.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = 0
    wanted = _wanted_size(path) if size else 0
    if size >= wanted:
        yield False
        return
    os.truncate(path, wanted)
    is_right = False
    try:
        yield True
        is_right = True
    finally:
        if not is_right:
            os.truncate(path, size)


def _wanted_size(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    states: list[tuple[int, int]] = []
    page_bytes = 0
    for _ in range(2):
        start = len(states) * page_bytes
        if len(head) < start + _LAST_PAGE_AT + _LAST_PAGE_AND_TRANSACTION.size:
            return 0  # LMDB says by itself that this is no environment
        if _NUMBER.unpack_from(head, start + _MAGIC_AT)[0] != _MAGIC:
            return 0
        page_bytes = page_bytes or _NUMBER.unpack_from(head, _PAGE_BYTES_AT)[0]
        last_page, transaction = _LAST_PAGE_AND_TRANSACTION.unpack_from(head, start + _LAST_PAGE_AT)
        states.append((transaction, last_page))
    return int((max(states)[1] + 1) * page_bytes)
