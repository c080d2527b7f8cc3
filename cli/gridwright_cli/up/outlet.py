"""A stream of this process that may be slow, stuck or gone."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

#: What waits for a slow reader; more is dropped.
_MAX_WAITING_BYTES = 1024 * 1024


class Outlet:
    """Writes from a thread of its own, so that whoever has something to say never waits for who reads it.

    A terminal stops reading at Ctrl-S, and is gone when its window is closed; a pager stops
    at its first page. None of them may stop the grid, or keep it from stopping in order.

    Args:
        fd: where to write; straight to it, as Python's own streams keep a lock while they are stuck, which its
            end waits for.
        notice: makes the line that tells how many were dropped.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._notice = notice
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._closed = False
        self._news = threading.Condition()
        # A daemon: a stuck one must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"outlet {fd}", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Have *line* written soon, or drop it if too much waits already."""
        with self._news:
            if self._closed or self._waiting_bytes + len(line) > _MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._tell_of_dropped()
            self._add(line)

    def close(self, seconds: float) -> None:
        """Write what waits still, as far as that goes within *seconds*."""
        with self._news:
            self._tell_of_dropped()
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            self._add(self._notice(self._dropped))
            self._dropped = 0

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._news.notify()

    def _run(self) -> None:
        while (line := self._next()) is not None:
            try:
                _write_all(self._fd, line)
            except OSError:
                # The reader is gone (EPIPE, EIO), or a disk is full: the line is lost, and the next one tried.
                continue

    def _next(self) -> bytes | None:
        """Return the next line, or None at the end."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            line = self._waiting.popleft()
            self._waiting_bytes -= len(line)
            return line


def _write_all(fd: int, data: bytes) -> None:
    # Somebody else may have made it non-blocking: it is one with that of every process of the terminal.
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    while data:
        writable.poll()
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            continue
