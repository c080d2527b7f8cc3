"""Which processes use a directory, so that what a dead one had begun can be cleared away."""

from __future__ import annotations

import os
from pathlib import Path

from gridwright.file_lock import try_lock
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.index import Index

_LAST_OWNER = b"last owner"


class Owner:
    """This process among those that use a directory: a number of its own, and a lock that says it lives."""

    def __init__(self, number: int, path: Path, lock: int) -> None:
        self.number = number
        self._path = path
        self._lock = lock

    @classmethod
    def register(cls, index: Index, locks: Path) -> Owner:
        """Be one of the processes; *locks* is the directory of lock files, which is made if need be.

        Raises:
            Unavailable: the file system does not lock.
        """
        with index.writing() as txn:
            # Also where a power cut undoes this, numbers stay unique among the living: all died of it.
            number = int.from_bytes(txn.get(_LAST_OWNER, db=index.counters) or b"", "big") + 1
            txn.put(_LAST_OWNER, number.to_bytes(8, "big"), db=index.counters)
        with disk_errors():
            locks.mkdir(exist_ok=True)
            path = _path(locks, number)
            lock = try_lock(path)
            if lock is None:
                raise BlockingIOError(f"{path} is new, and yet it is locked")
        return cls(number, path, lock)

    def close(self) -> None:
        """Count as dead; what was begun and not finished may be cleared away."""
        self._path.unlink(missing_ok=True)
        os.close(self._lock)


def is_alive(locks: Path, number: int) -> bool:
    """Whether the process with this number still runs. Raises OSError."""
    path = _path(locks, number)
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    path.unlink(missing_ok=True)
    os.close(lock)
    return False


def _path(locks: Path, number: int) -> Path:
    return locks / f"owner-{number}"
