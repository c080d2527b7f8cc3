"""Reads what is stored where the rows of the index say, while services may move and remove it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, BlobNotFound
from gridwright_cas.maintenance.contents import Stored
from gridwright_cas.maintenance.store_directory import OpenDirectory
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.key import digest_of, key_of
from gridwright_cas.stores.segments.large_file import LargeFile
from gridwright_cas.stores.segments.record import Damaged, payload_of, record_size
from gridwright_cas.stores.segments.row import Row

#: A blob may be moved between a look at its row and the read, hardly ever twice.
_LOOKS = 3


class SmallBlob(Stored):
    """The payload of a record, which was checked as a whole."""

    def __init__(self, payload: bytes) -> None:
        self.size_bytes = len(payload)
        self._payload = payload

    def read(self, start: int, end: int) -> bytes:
        return self._payload[start:end]


class LargeBlob(Stored):
    """A large file, whose blocks are checked one by one."""

    def __init__(self, file: LargeFile) -> None:
        self.size_bytes = file.stored_bytes
        self._file = file

    def read(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        with disk_errors():
            while start < end:
                pieces.append(self._file.read(start, end))
                start += len(pieces[-1])
        return b"".join(pieces)


@contextmanager
def stored_at(directory: OpenDirectory, key: bytes, row: Row) -> Iterator[Stored]:
    """Give away what is stored where *row* says.

    Raises:
        BlobNotFound: there is no such file.
        BlobCorrupted: it is something else, or rotten.
        Unavailable: the disk does not answer.
    """
    if not row.is_large:
        yield SmallBlob(_payload(directory, key, row))
        return
    file = directory.engine.large_files.open(row.offset, digest_of(key))
    try:
        yield LargeBlob(file)
    finally:
        with disk_errors():
            file.close()


@contextmanager
def stored(directory: OpenDirectory, digest: Digest) -> Iterator[Stored]:
    """Give away what is stored under *digest*, wherever it is by now.

    Raises:
        BlobNotFound: nothing is.
        BlobCorrupted, Unavailable: as :func:`stored_at`.
    """
    key = key_of(digest)
    for look in range(1, _LOOKS + 1):
        row = directory.engine.index.row_of(key)
        if row is None:
            raise BlobNotFound(digest)
        opening = stored_at(directory, key, row)
        try:
            found = opening.__enter__()
        except (BlobNotFound, BlobCorrupted):
            if look == _LOOKS or row.is_same_place(directory.engine.index.row_of(key)):
                raise
            continue
        try:
            yield found
        finally:
            opening.__exit__(None, None, None)
        return


def _payload(directory: OpenDirectory, key: bytes, row: Row) -> bytes:
    disk = directory.parts.disk
    with disk_errors():
        try:
            fd = disk.open(directory.engine.directory.path_of(row.segment), os.O_RDONLY)
        except FileNotFoundError:
            raise BlobNotFound(digest_of(key)) from None
        try:
            data = disk.read(fd, record_size(key, row.stored_bytes), row.offset)
        finally:
            disk.close(fd)
    try:
        return payload_of(data, 0, key, row.stored_bytes)
    except Damaged:
        raise BlobCorrupted(digest_of(key)) from None
