"""Who may open an index, and whether anybody else has it open."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridwright.errors import Unavailable
from gridwright.file_lock import try_lock

#: A copy of an index of some GB is made in that time.
_WAIT_SECONDS = 60.0
_ASK_SECONDS = 0.02
_GATE = "gate.lock"
_USERS = "users.lock"


class IndexUse:
    """A process's right to have an index open: while one has it, nobody puts another file in its place."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def begin(cls, directory: Path) -> IndexUse:
        """Use the index; the caller is at the gate. Raises OSError."""
        descriptor = os.open(directory / _USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def is_sole(self) -> bool:
        """Whether no other process has the index open; that stays so while the caller is at the gate."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            # Where the lock could not be changed it was lost; nobody but who is at the gate could have taken it.
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def end(self) -> None:
        os.close(self._descriptor)


@contextmanager
def at_the_gate(directory: Path) -> Iterator[None]:
    """Be the only one who opens the index in *directory* while the block runs.

    Raises:
        OSError: the file system does not lock.
        Unavailable: another process has been opening it for a minute.
    """
    give_up = time.monotonic() + _WAIT_SECONDS
    while (gate := try_lock(directory / _GATE)) is None:
        if time.monotonic() >= give_up:
            raise Unavailable(
                f"another process has been opening it for {_WAIT_SECONDS:.0f} s: wait for it, or end it if it is stuck"
            )
        # The kernel tells of a lock that becomes free only who waits in it, without a bound.
        time.sleep(_ASK_SECONDS)
    try:
        yield
    finally:
        os.close(gate)
