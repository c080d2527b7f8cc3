"""What became of blobs that are not what was written."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from gridwright.errors import GridwrightError
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.record import record_size
from gridwright_cas.stores.segments.remover import Remover, Tally
from gridwright_cas.stores.segments.room import KEPT
from gridwright_cas.stores.segments.row import Row

_MAX_FILES = 256
#: The part of the store that bad bytes may take.
_SHARE = 64
_PAGE_BYTES = 4096


class Quarantine:
    """Takes rotten blobs out of service and keeps their bytes, ``quarantine/<where they were>``, to be looked at.

    A rotten blob is answered as missing, so that it is uploaded again; its bytes may tell a
    failing disk from a bug. Their number and bytes are bounded: beyond that bytes are dropped.

    May be called from any thread.
    """

    def __init__(self, parts: Parts, remover: Remover) -> None:
        self._parts = parts
        self._remover = remover
        self._lock = threading.Lock()
        self.path = str(parts.root / "quarantine")
        with disk_errors():
            parts.disk.make_directory(self.path)

    def take(self, key: bytes, row: Row) -> bool:
        """Remove a blob that was found rotten where *row* says; return whether it still was there.

        Raises:
            Unavailable, ResourceExhausted: the index cannot be changed, or the whole directory is gone.
        """
        with disk_errors():
            # A volume that is not there takes all files with it, and brings them back.
            os.stat(self._parts.large.path if row.is_large else self._parts.segments.path)
        with self._lock:
            tally = Tally()
            if row.is_large:
                self._remover.doom_large([(key, row)], tally)
            else:
                self._remover.remove([(key, row)], tally)
            self._parts.stats.corrupt_blobs += tally.blobs
            if tally.blobs:
                # Where this fails the evidence is lost, which is no reason to serve it.
                with suppress(OSError, GridwrightError):
                    if row.is_large:
                        self._keep_large(row)
                    else:
                        self._keep_record(key, row)
            if row.is_large:
                self._remover.finish_doomed()
            return tally.blobs > 0

    def _keep_record(self, key: bytes, row: Row) -> None:
        disk = self._parts.disk
        descriptor = disk.open(self._parts.segments.path_of(row.segment), os.O_RDONLY)
        try:
            data = disk.read(descriptor, record_size(key, row.stored_bytes), row.offset)
        finally:
            disk.close(descriptor)
        name = f"{row.segment}-{row.offset}"
        if not self._take_room(name, len(data)):
            return
        descriptor = disk.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            disk.write(descriptor, [data], 0)
        finally:
            disk.close(descriptor)

    def _keep_large(self, row: Row) -> None:
        name = f"large-{row.offset:016x}"
        if self._take_room(name, file_bytes(row.stored_bytes)):
            self._parts.disk.rename(self._parts.large.path_of(row.offset), f"{self.path}/{name}")

    def _take_room(self, name: str, size_bytes: int) -> bool:
        room = self._parts.room
        cost_bytes = -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        with self._parts.index.reading() as txn:
            charges = list(room.charges(txn, b"Q"))
        used_bytes = sum(charge.size_bytes for _, charge in charges)
        if len(charges) >= _MAX_FILES or used_bytes + cost_bytes > room.size.max_bytes // _SHARE:
            return False
        return room.try_take(b"Q" + name.encode(), cost_bytes, owner=KEPT)
