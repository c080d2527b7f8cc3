"""Processes that a killed `gridwright up` left behind.

Its services hear of its death (``launch``) and end by themselves, mostly. What did not, or
is still at it, is found here by the next start: each service leads a session, so all that
it started is in it, and all of it works in the data directory.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def end_leftovers(sessions: Iterable[int], directory: Path, *, patience_seconds: float) -> int:
    """End what runs in *sessions* and works in *directory*; return how many processes that were.

    They are asked first, and killed when *patience_seconds* have passed.
    """
    wanted = set(sessions)
    found = _members(wanted, directory)
    _signal(found, signal.SIGTERM)
    _wait(found, patience_seconds)
    _signal(killed := _members(wanted, directory), signal.SIGKILL)
    _wait(killed, 5.0)
    return len(found)


def _members(sessions: set[int], directory: Path) -> list[int]:
    """Return the processes of *sessions* that work in *directory*: a number alone may long be somebody else's."""
    members = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        try:
            if os.getsid(pid) in sessions and Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory):
                members.append(pid)
        except OSError:
            continue  # gone, or another user's
    return members


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _wait(pids: Iterable[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(fd)
