"""Sole use of a directory, a socket or a database, as a lock on a file beside it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

_POLL_SECONDS = 0.05


def try_lock(path: Path) -> int | None:
    """Lock the file at *path*, which is made if need be; return its descriptor, or None if it is locked already.

    The lock lasts until the descriptor is closed, also where a child has inherited it; the
    kernel sees to that when processes are killed. The file stays: to remove it would let
    two processes hold locks on two files of one name.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def try_lock_named(path: Path) -> int | None:
    """Like :func:`try_lock`, for files that their holders may remove: return a lock on the file that has this name now.

    Raises:
        OSError: the file cannot be made.
    """
    while (descriptor := try_lock(path)) is not None:
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
    return None


async def lock_within(path: Path, seconds: float) -> int | None:
    """Like :func:`try_lock`, but give a holder that is about to end *seconds* to do so.

    Raises:
        OSError: the file cannot be made.
    """
    give_up = time.monotonic() + seconds
    while (descriptor := try_lock(path)) is None and time.monotonic() < give_up:  # noqa: ASYNC110  # see below
        # The kernel announces a lock that becomes free only to a thread that waits in it, uninterruptibly.
        await asyncio.sleep(_POLL_SECONDS)
    return descriptor
