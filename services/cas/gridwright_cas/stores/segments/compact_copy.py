"""An index is made as small as it can be: LMDB's file never shrinks by itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import lmdb

from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.index import DATA_FILE, Index, index_errors

_COPY_FILE = f"{DATA_FILE}.copy"
_PIECE_BYTES = 1024 * 1024


def write_compact_copy(index: Index, disk: Disk) -> None:
    """Write a copy of the index without its free pages to a file beside it, and bring it to the disk.

    ``adopt_compact_copy`` puts it in the place of the index. Whatever happens before that, the index is as it was.

    Raises:
        OSError: the disk fails.
        Unavailable, ResourceExhausted: the index cannot be read.
    """
    path = Path(index.environment.path())
    descriptor = disk.open(str(path / _COPY_FILE), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _copy(index.environment, disk, descriptor)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def adopt_compact_copy(path: Path, disk: Disk) -> None:
    """Let the copy be the index in the directory *path*, which nobody has open. Raises OSError."""
    disk.rename(str(path / _COPY_FILE), str(path / DATA_FILE))
    disk.sync_directory(str(path))


def discard_compact_copy(path: Path, disk: Disk) -> None:
    """Remove a copy that is not to be the index, as one that a crash has left. Raises OSError."""
    if (path / _COPY_FILE).exists():
        disk.unlink(str(path / _COPY_FILE))


def _copy(environment: lmdb.Environment, disk: Disk, descriptor: int) -> None:
    """Have LMDB write into a pipe, since files are written by the disk."""
    source, sink = os.pipe()
    failures: list[lmdb.Error] = []

    def produce() -> None:
        try:
            environment.copyfd(sink, compact=True)
        except lmdb.Error as error:
            failures.append(error)
        finally:
            os.close(sink)

    producer = threading.Thread(target=produce, name="segment-index-copy")
    producer.start()
    try:
        offset = 0
        while piece := os.read(source, _PIECE_BYTES):
            disk.write(descriptor, [piece], offset)
            offset += len(piece)
    finally:
        os.close(source)  # so that a producer whose consumer has failed ends
        producer.join()
    with index_errors():
        if failures:
            raise failures[0]
