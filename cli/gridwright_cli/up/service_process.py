"""One run of one service, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import IO

from gridwright_cli.up.log_lines import LineSplitter

_READ_BYTES = 64 * 1024


class ServiceProcess:
    """A child that leads a session of its own, and hands over its output line by line.

    The session keeps a Ctrl-C in the terminal from reaching it: when it stops is decided
    here. What a service starts itself (an Envoy, an action) it also ends, however it ends.

    Must be made in the main thread, by a running event loop.
    """

    def __init__(self, command: Sequence[str], on_line: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_line = on_line
        self._lines = LineSplitter()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
        assert self._popen.stdout is not None
        self._output: IO[bytes] = self._popen.stdout
        os.set_blocking(self._output.fileno(), False)
        self._loop.add_reader(self._output.fileno(), self._read)
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        self._started = self._loop.time()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ran_seconds(self) -> float:
        """How long ago it was started."""
        return self._loop.time() - self._started

    async def wait(self) -> int:
        """Return its exit status, negative for a signal, once it has ended."""
        return await asyncio.shield(self._ended)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if not self._ended.done():
            self._popen.send_signal(number)

    def _read(self) -> bool:
        """Hand over what it has written; return whether there may be more."""
        try:
            data = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        for line in self._lines.feed(data):
            self._on_line(line)
        if not data:
            self._loop.remove_reader(self._output.fileno())
        return bool(data)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._popen.wait()
        while self._read():
            pass
        for line in self._lines.rest():
            self._on_line(line)
        self._loop.remove_reader(self._output.fileno())
        self._output.close()
        self._ended.set_result(status)
