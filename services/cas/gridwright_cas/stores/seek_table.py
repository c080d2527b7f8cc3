"""Where in a compressed blob each block is: the table behind its frames.

A compressed blob is its frames one after the other, then a table, in the layout of Zstandard's seekable
format (zstd/contrib/seekable_format): a frame that decoders skip, so the whole is a stream that ``zstd -d`` or
``lz4 -d`` reads. Numbers are little-endian::

    magic 0x184D2A5E, size of what follows | stored size, size, of each frame | frames, 0, magic 0x8F92EAB1

A blob of one block is a frame and nothing else. All blocks but the last have the same size.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
#: No table is believed that has smaller blocks than this, so none is large.
MIN_BLOCK_BYTES = 4096


class SeekTable(NamedTuple):
    """Where the blocks of a blob are."""

    #: The size of every block but the last, which has what is left of ``size_bytes``.
    block_bytes: int
    size_bytes: int
    #: Where each frame begins in what is stored; one more than there are frames, as the last has an end.
    starts: Sequence[int]

    def size_of(self, block: int) -> int:
        """Return the size of a block."""
        return min(self.block_bytes, self.size_bytes - block * self.block_bytes)


def table_bytes(blocks: int) -> int:
    """Return how long the table of so many blocks is."""
    return _HEADER.size + blocks * _ENTRY.size + _FOOTER.size if blocks > 1 else 0


def encode(stored_sizes: Sequence[int], block_bytes: int, size_bytes: int) -> bytes:
    """Return the table of frames of these sizes; nothing, where there is one frame only."""
    blocks = len(stored_sizes)
    if blocks <= 1:
        return b""
    sizes = [block_bytes] * (blocks - 1) + [size_bytes - block_bytes * (blocks - 1)]
    return b"".join(
        [
            _HEADER.pack(_SKIPPABLE_MAGIC, table_bytes(blocks) - _HEADER.size),
            *map(_ENTRY.pack, stored_sizes, sizes),
            _FOOTER.pack(blocks, 0, _SEEKABLE_MAGIC),
        ]
    )


def length_of_table(tail: bytes, size_bytes: int) -> int:
    """Return how long the table is that *tail*, the end of what is stored, ends with; 0 if there is none."""
    if len(tail) < _FOOTER.size:
        return 0
    blocks, descriptor, magic = _FOOTER.unpack_from(tail, len(tail) - _FOOTER.size)
    if magic != _SEEKABLE_MAGIC or descriptor != 0 or not 1 < blocks <= size_bytes // MIN_BLOCK_BYTES + 1:
        return 0
    return table_bytes(blocks)


def decode(tail: bytes, size_bytes: int) -> SeekTable | None:
    """Return the table at the end of *tail*, or None if it does not end with one of a blob of *size_bytes*."""
    length = length_of_table(tail, size_bytes)
    if length == 0 or len(tail) < length:
        return None
    table = memoryview(tail)[-length:]
    if _HEADER.unpack_from(table) != (_SKIPPABLE_MAGIC, length - _HEADER.size):
        return None
    entries = list(_ENTRY.iter_unpack(table[_HEADER.size : -_FOOTER.size]))
    block_bytes, last_bytes = entries[0][1], entries[-1][1]
    if any(size != block_bytes for _, size in entries[:-1]) or not 0 < last_bytes <= block_bytes:
        return None
    if block_bytes * (len(entries) - 1) + last_bytes != size_bytes:
        return None
    # A frame hardly exceeds its block, so a damaged table makes nobody read far more than a block at once.
    if any(stored > size + size // 64 + 1024 for stored, size in entries):
        return None
    return SeekTable(block_bytes, size_bytes, list(accumulate((stored for stored, _ in entries), initial=0)))
