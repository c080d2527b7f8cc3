"""What became of blobs that are not what was written."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from gridwright.digest import Digest
from gridwright.errors import GridwrightError
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.key import digest_of
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
#: Who is to look at them has had the time.
_KEPT_SECONDS = 7 * 24 * 3600.0
_SORT = b"Q"


class Rot(NamedTuple):
    """A blob that was found rotten."""

    digest: Digest
    #: Where it was: the file, and from which byte on.
    file: str
    offset: int
    #: Where its bytes are to be looked at, or None: there was no room for them.
    kept_as: str | None


class Quarantine:
    """Takes rotten blobs out of service and keeps their bytes to be looked at, as ``quarantine/<when>-<where>``.

    A rotten blob is answered as missing, so that it is uploaded again; its bytes may tell a
    failing disk from a bug. Their number and bytes are bounded, and part of what the store may take: the oldest go
    for new ones, and after a week.

    May be called from any thread.
    """

    def __init__(self, parts: Parts, remover: Remover, on_rot: Callable[[Rot], None] = lambda _: None) -> None:
        self._parts = parts
        self._remover = remover
        self._on_rot = on_rot
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
                kept_as = None
                # Where this fails the evidence is lost, which is no reason to serve it.
                with suppress(OSError, GridwrightError):
                    kept_as = self._keep_large(row) if row.is_large else self._keep_record(key, row)
                self._on_rot(self._rot(key, row, kept_as))
            if row.is_large:
                self._remover.finish_doomed()
            return tally.blobs > 0

    def expire(self) -> None:
        """Remove what has been here for a week; also what is from a time that is a week ahead.

        Raises:
            Unavailable, ResourceExhausted: the disk fails.
        """
        now = self._parts.clock.now()
        with self._lock:
            for name, _ in self._kept():
                if abs(now - _taken_at(name)) > _KEPT_SECONDS:
                    self._remove(name)

    def remove_strays(self) -> None:
        """Remove files that are charged to nobody, since a power cut or the loss of the index has undone that.

        Raises:
            Unavailable, ResourceExhausted: the disk fails.
        """
        with self._lock, disk_errors():
            # First the files, then the charges: what another process brings in between has its charge.
            names = self._parts.disk.list_directory(self.path)
            charged = {name for name, _ in self._kept()}
            for name in names:
                if name not in charged:
                    self._parts.disk.unlink(f"{self.path}/{name}")

    def _rot(self, key: bytes, row: Row, kept_as: str | None) -> Rot:
        parts = self._parts
        if row.is_large:
            return Rot(digest_of(key), parts.large.path_of(row.offset), 0, kept_as)
        return Rot(digest_of(key), parts.segments.path_of(row.segment), row.offset, kept_as)

    def _keep_record(self, key: bytes, row: Row) -> str | None:
        disk = self._parts.disk
        descriptor = disk.open(self._parts.segments.path_of(row.segment), os.O_RDONLY)
        try:
            data = disk.read(descriptor, record_size(key, row.stored_bytes), row.offset)
        finally:
            disk.close(descriptor)
        path = self._take_room(f"{row.segment}-{row.offset}", len(data))
        if path is not None:
            descriptor = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                disk.write(descriptor, [data], 0)
            finally:
                disk.close(descriptor)
        return path

    def _keep_large(self, row: Row) -> str | None:
        path = self._take_room(f"large-{row.offset:016x}", file_bytes(row.stored_bytes))
        if path is not None:
            self._parts.disk.rename(self._parts.large.path_of(row.offset), path)
        return path

    def _take_room(self, where: str, size_bytes: int) -> str | None:
        """Return the path for bad bytes, or None: there is no room for so many."""
        room = self._parts.room
        cost_bytes = -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        max_bytes = room.size.max_bytes // _SHARE
        if cost_bytes > max_bytes:
            return None
        kept = deque(self._kept())
        used_bytes = sum(kept_bytes for _, kept_bytes in kept)
        while kept and (len(kept) >= _MAX_FILES or used_bytes + cost_bytes > max_bytes):
            oldest, oldest_bytes = kept.popleft()
            self._remove(oldest)
            used_bytes -= oldest_bytes
        name = f"{int(self._parts.clock.now()):011d}-{where}"
        return f"{self.path}/{name}" if room.try_take(_SORT + name.encode(), cost_bytes, owner=KEPT) else None

    def _kept(self) -> list[tuple[str, int]]:
        """Return the names of what is here, the oldest first, and what each takes."""
        with self._parts.index.reading() as txn:
            charges = list(self._parts.room.charges(txn, _SORT))
        return [(holder[len(_SORT) :].decode(), charge.size_bytes) for holder, charge in charges]

    def _remove(self, name: str) -> None:
        with disk_errors(), suppress(FileNotFoundError):
            self._parts.disk.unlink(f"{self.path}/{name}")
        self._parts.room.give_back(_SORT + name.encode())


def _taken_at(name: str) -> int:
    seconds = name.partition("-")[0]
    return int(seconds) if seconds.isdecimal() else 0
