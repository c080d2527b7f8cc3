"""Whether an LMDB data file is as long as what it holds, read without LMDB.

LMDB maps its file and believes it. A page that lies beyond the end of the file, as after a
copy that was cut short or a file system that was repaired, ends the process by SIGBUS when
it is touched: no exception, no log line, and the same at every restart. So the length is
looked at before the file is opened.

A sound file may be a few pages shorter than its last page number says: LMDB never writes
pages that one transaction both took and gave back, it only notes them as free. So what lies
beyond the end must be on the list of free pages, which is a B+ tree in the file as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error, unpack_from
from typing import NamedTuple

# What follows is LMDB 0.9's own layout (mdb.c) on a little-endian machine with words of 64 bits, as all of ours are.
_MAGIC, _VERSION = 0xBEEFC0DE, 1
#: A page begins with its number, a field of LMDB's own, flags, and where the free space in it begins.
_PAGE = Struct("<QHHHH")
_IS_BRANCH, _IS_LEAF = 0x01, 0x02
#: A node begins with two halves of a number, flags and the size of its key, which follows.
_NODE = Struct("<HHHH")
_ON_OVERFLOW_PAGES = 0x01
#: A meta page: magic number, version, the table of free pages (page size first, root last), last page, transaction.
_META = Struct("<16x II 16x I 36x Q 48x QQ".replace(" ", ""))
_NO_ROOT = 2**64 - 1
#: What is seen while others write may be of two transactions; so often we look again.
_LOOKS = 5


class _Meta(NamedTuple):
    magic: int
    version: int
    page_bytes: int
    free_root: int
    last_page: int
    transaction: int


def is_cut_short(data_file: Path) -> bool:
    """Return whether LMDB would reach beyond the end of *data_file*, ``data.mdb`` in its directory.

    An empty file, or none, is where LMDB begins; what is no file of LMDB's at all, LMDB says
    itself. Others may write to the file meanwhile.

    Raises:
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(data_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _is_cut_short(descriptor)
    finally:
        os.close(descriptor)


def _is_cut_short(descriptor: int) -> bool:
    for _ in range(_LOOKS):
        meta = _newest_meta(descriptor)
        if meta is None:
            return False
        pages = os.fstat(descriptor).st_size // meta.page_bytes
        if pages > meta.last_page:
            return False
        try:
            needed = set(range(pages, meta.last_page + 1)) - set(_free_pages(descriptor, meta, pages))
        except error:
            needed = {pages}
        if not needed:
            return False
        if _newest_meta(descriptor) == meta:
            return True
    # Somebody writes to it all the time, which nobody could to a file that is cut short.
    return False


def _newest_meta(descriptor: int) -> _Meta | None:
    """Return the meta page of the last transaction, or None if LMDB would not take this for its file."""
    first = _meta_at(descriptor, 0)
    if first is None:
        return None
    second = _meta_at(descriptor, first.page_bytes)
    return first if second is None or first.transaction > second.transaction else second


def _meta_at(descriptor: int, offset: int) -> _Meta | None:
    data = os.pread(descriptor, _META.size, offset)
    if len(data) < _META.size:
        return None
    meta = _Meta._make(_META.unpack(data))
    known = (meta.magic, meta.version) == (_MAGIC, _VERSION) and 512 <= meta.page_bytes <= 65_536
    return meta if known else None


def _free_pages(descriptor: int, meta: _Meta, pages: int) -> Iterator[int]:
    """Yield the free pages that are noted in the file's first *pages* pages.

    Raises:
        struct.error: the notes themselves are cut.
    """
    waiting = [] if meta.free_root == _NO_ROOT else [meta.free_root]
    seen = 0
    while waiting:
        number = waiting.pop()
        seen += 1
        if seen > pages:
            raise error("the list of free pages goes round in circles")
        if number >= pages:
            raise error("a page of the list of free pages is beyond the end of the file")
        page = os.pread(descriptor, meta.page_bytes, number * meta.page_bytes)
        _, _, page_flags, lower, _ = _PAGE.unpack_from(page)
        for start in unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size):
            low, high, flags, key_bytes = _NODE.unpack_from(page, start)
            value = start + _NODE.size + key_bytes
            if page_flags & _IS_BRANCH:
                waiting.append(low | high << 16 | flags << 32)
            elif not page_flags & _IS_LEAF:
                raise error("a page of the list of free pages is something else")
            elif flags & _ON_OVERFLOW_PAGES:
                (overflow,) = unpack_from("<Q", page, value)
                size = low | high << 16
                yield from _numbers(os.pread(descriptor, size, overflow * meta.page_bytes + _PAGE.size))
            else:
                yield from _numbers(page[value:])


def _numbers(value: bytes) -> tuple[int, ...]:
    """Return the page numbers in *value*, which says first how many they are."""
    (count,) = unpack_from("<Q", value)
    return unpack_from(f"<{count}Q", value, 8)
