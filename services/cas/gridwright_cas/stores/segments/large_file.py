"""The format of large blobs: files of checked blocks.

A file is, one after the other:

- the blob as stored, uncut and from offset 0, so that its blocks of 1 MiB lie where direct
  I/O wants them; then zeros up to a multiple of 4,096 bytes;
- the table: for each block its codec (0: as it came), its bytes and its CRC-32C, which takes
  in the zeros behind the last block;
- zeros, and at the very end of the file the trailer, which names the blob and carries a
  CRC-32C of all that is behind the blocks.

So any offset can be read, every byte of the file is under some checksum, and a block is
checked before any of it is sent. A file that was cut short has no trailer, and one that was
mistaken for another has the wrong name in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import google_crc32c

from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted
from gridwright_cas.stores.direct_io import BLOCK_BYTES as PAGE_BYTES
from gridwright_cas.stores.direct_io import AlignedBuffer
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.key import key_of

#: What is checked, and read, as one.
BLOCK_BYTES = 1024 * 1024
_MAGIC = b"GWLARGE1"
#: The one codec so far: bytes as they came.
_PLAIN = 0
#: Codec, bytes, CRC-32C.
_ENTRY = struct.Struct("<BII")
#: Magic, bytes of the blob as stored, bytes per block, length of the key, the key, CRC-32C.
_TRAILER = struct.Struct("<8sQIB79sI")
_CRC_BYTES = 4
#: The end of a file of up to 1.7 GiB comes with the first read.
_FIRST_READ_BYTES = 16 * 1024


def file_bytes(stored_bytes: int) -> int:
    """Return how large the file of a blob of *stored_bytes* is."""
    return _padded(stored_bytes) + _tail_bytes(stored_bytes)


class LargeFileWriter:
    """Writes the blocks of one large file, from start to end.

    It computes checksums as bytes come. With a *buffer* it collects them there into whole
    pages, as direct I/O wants them; the descriptor must have been prepared for that.
    Its methods raise OSError.

    """

    def __init__(self, disk: Disk, descriptor: int, buffer: AlignedBuffer | None) -> None:
        self._disk = disk
        self._descriptor = descriptor
        self._buffer = buffer
        #: What was given to the disk; a multiple of PAGE_BYTES with a buffer, except after ``flush``.
        self._written_bytes = 0
        self.stored_bytes = 0
        #: CRC-32C of each block that is full, and of the one that is not yet.
        self._block_crcs: list[int] = []
        self._crc = 0

    def resume(self, size_bytes: int, update_hash: Callable[[bytes], object]) -> None:
        """Go on behind the first *size_bytes* of the file, which are read, summed up and hashed again."""
        read = self._disk.read if self._buffer is None else self._disk.read_direct
        while self.stored_bytes < size_bytes:
            piece = read(self._descriptor, min(BLOCK_BYTES, size_bytes - self.stored_bytes), self.stored_bytes)
            if not piece:
                break
            update_hash(piece)
            self._count(piece)
        self._go_on()

    def go_on_in(self, descriptor: int, buffer: AlignedBuffer | None) -> None:
        """Go on in the same file, opened again after ``flush``."""
        self._descriptor = descriptor
        self._buffer = buffer
        self._go_on()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*."""
        for piece in pieces:
            self._count(piece)
        self._append(pieces)

    def flush(self) -> None:
        """Bring what was collected into the file, which then has exactly the bytes of the blob so far."""
        if self._buffer is None or self._written_bytes == self.stored_bytes:
            return
        page_start = self._written_bytes
        pages = self._buffer.take()
        self._disk.write(self._descriptor, [pages], page_start)
        self._disk.truncate(self._descriptor, self.stored_bytes)
        # The last page is written once more when it has become full.
        whole_bytes = (self.stored_bytes - page_start) // PAGE_BYTES * PAGE_BYTES
        self._written_bytes = page_start + whole_bytes
        self._buffer.fill(memoryview(bytes(pages[whole_bytes : self.stored_bytes - page_start])))

    def finish(self, digest: Digest) -> int:
        """Append table and trailer; return the size of the file, which the caller then synchronises."""
        padding = bytes(_padded(self.stored_bytes) - self.stored_bytes)
        crcs = list(self._block_crcs)
        if self.stored_bytes % BLOCK_BYTES:
            crcs.append(google_crc32c.extend(self._crc, padding))
        sizes = (min(BLOCK_BYTES, self.stored_bytes - start) for start in range(0, self.stored_bytes, BLOCK_BYTES))
        table = b"".join(_ENTRY.pack(_PLAIN, size, crc) for size, crc in zip(sizes, crcs, strict=True))
        tail = table + bytes(_tail_bytes(self.stored_bytes) - len(table) - _TRAILER.size)
        key = key_of(digest)
        tail += _TRAILER.pack(_MAGIC, self.stored_bytes, BLOCK_BYTES, len(key), key, 0)[:-_CRC_BYTES]
        tail += google_crc32c.value(tail).to_bytes(_CRC_BYTES, "little")
        self._append([padding, tail])
        if self._buffer is not None:
            self._disk.write(self._descriptor, [self._buffer.take()], self._written_bytes)
        return file_bytes(self.stored_bytes)

    def _go_on(self) -> None:
        """Write behind what the file has, which is what was counted."""
        self._written_bytes = self.stored_bytes
        if self._buffer is not None and (left_over := self.stored_bytes % PAGE_BYTES):
            self._written_bytes -= left_over
            self._buffer.fill(memoryview(self._disk.read_direct(self._descriptor, left_over, self._written_bytes)))

    def _count(self, piece: bytes) -> None:
        start = 0
        while start < len(piece):
            block_left = BLOCK_BYTES - self.stored_bytes % BLOCK_BYTES
            part = piece if start == 0 and len(piece) <= block_left else piece[start : start + block_left]
            self._crc = google_crc32c.extend(self._crc, part)
            self.stored_bytes += len(part)
            start += len(part)
            if len(part) == block_left:
                self._block_crcs.append(self._crc)
                self._crc = 0

    def _append(self, pieces: Sequence[bytes]) -> None:
        buffer = self._buffer
        if buffer is None:
            self._disk.write(self._descriptor, pieces, self._written_bytes)
            self._written_bytes += sum(map(len, pieces))
            return
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = buffer.fill(left)
                if buffer.is_full:
                    pages = buffer.take()
                    self._disk.write(self._descriptor, [pages], self._written_bytes)
                    self._written_bytes += len(pages)


class LargeFile:
    """A large file that is open for reading; it stays good when the blob is evicted.

    Its reads may run in several threads at once.
    """

    def __init__(self, disk: Disk, descriptor: int, digest: Digest) -> None:
        """Read the end of the file; the descriptor is the caller's until this returns.

        Raises:
            BlobCorrupted: it is not a whole file of this blob.
            OSError: the disk does not answer.
        """
        self._disk = disk
        self._descriptor = descriptor
        self._digest = digest
        self._read = disk.read
        end = disk.size(descriptor)
        tail = disk.read(descriptor, min(end, _FIRST_READ_BYTES), max(0, end - _FIRST_READ_BYTES))
        if len(tail) < PAGE_BYTES:
            raise BlobCorrupted(digest)
        magic, self.stored_bytes, block_bytes, key_length, key, crc = _TRAILER.unpack_from(
            tail, len(tail) - _TRAILER.size
        )
        if (
            (magic, block_bytes, key[:key_length]) != (_MAGIC, BLOCK_BYTES, key_of(digest))
            or file_bytes(self.stored_bytes) != end
        ):  # fmt: skip
            raise BlobCorrupted(digest)
        tail_bytes = _tail_bytes(self.stored_bytes)
        if tail_bytes > len(tail):
            tail = disk.read(descriptor, tail_bytes, end - tail_bytes)
        self._table = tail[-tail_bytes:]
        if google_crc32c.value(self._table[:-_CRC_BYTES]) != crc:
            raise BlobCorrupted(digest)

    def bypass_cache(self) -> None:
        """Read past the page cache from now on, where the file system can."""
        if self._disk.bypass_cache(self._descriptor):
            self._read = self._disk.read_direct

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of the blob from *start* to *end*, or to the end of the block in which *start* lies.

        Raises:
            BlobCorrupted: the block is not what was written.
            OSError: the disk does not answer.
        """
        number, skipped = divmod(start, BLOCK_BYTES)
        block = self._read_block(number)
        wanted = end - number * BLOCK_BYTES
        return block if skipped == 0 and wanted >= len(block) else block[skipped:wanted]

    def blocks(self) -> Iterator[bytes]:
        """Yield all blocks, checked.

        Raises:
            BlobCorrupted, OSError: as :meth:`read`.
        """
        for start in range(0, self.stored_bytes, BLOCK_BYTES):
            yield self.read(start, start + BLOCK_BYTES)

    def close(self) -> None:
        """Close the file; nobody may be reading."""
        self._disk.close(self._descriptor)

    def _read_block(self, number: int) -> bytes:
        codec, size_bytes, crc = _ENTRY.unpack_from(self._table, number * _ENTRY.size)
        padded = self._read(self._descriptor, _padded(size_bytes), number * BLOCK_BYTES)
        if codec != _PLAIN or len(padded) != _padded(size_bytes) or google_crc32c.value(padded) != crc:
            raise BlobCorrupted(self._digest)
        return padded if len(padded) == size_bytes else padded[:size_bytes]


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def _tail_bytes(stored_bytes: int) -> int:
    """Return the size of table and trailer, in whole pages."""
    return _padded(-(-stored_bytes // BLOCK_BYTES) * _ENTRY.size + _TRAILER.size)
