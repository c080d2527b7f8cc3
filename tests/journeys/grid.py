"""A whole grid as its users start it: `gridwright up` in a process of its own, with a process per service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gridwright_cli.up.announcement import READY
from gridwright_cli.up.services import SERVICES

SERVICE_NAMES = [service.name for service in SERVICES]
#: Generous, as the machines of tests are busy.
START_SECONDS = 60.0
STOP_SECONDS = 60.0
_KEPT_LINES = 5000


class GridFailed(AssertionError):
    """The grid did not do in time what was waited for; the text ends with its last lines."""


class Grid:
    """A running `gridwright up`.

    Args:
        data: its data directory.
        port: of gRPC.
        console_port: of the console.
        options: more options for `gridwright up`.
        prefix: a command that `gridwright up` is run through.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int,
        console_port: int,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self.port = port
        self.console_port = console_port
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._count = 0
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [
                *prefix,
                *(sys.executable, "-m", "gridwright_cli", "up", "--data", str(data)),
                *("--port", str(port), "--console-port", str(console_port)),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            # A Ctrl-C that ends the tests is theirs to act on.
            start_new_session=True,
        )
        self._follower = threading.Thread(target=self._follow, name=f"log of the grid on {port}")
        self._follower.start()

    @property
    def endpoint(self) -> str:
        """The gRPC target."""
        return f"127.0.0.1:{self.port}"

    @property
    def remote(self) -> str:
        """The endpoint as build tools take it."""
        return f"grpc://{self.endpoint}"

    def wait_ready(self) -> None:
        """Return when it says that a build can run."""
        self.wait_for(lambda line: line.startswith(READY), "to be ready", after=0, seconds=START_SECONDS)

    def pid(self, service: str) -> int:
        """Return which process *service* is now."""
        return int((self.data / "run" / f"{service}.pid").read_text())

    def kill(self, service: str) -> int:
        """End *service* with SIGKILL; return a mark for :meth:`wait_well_again`."""
        mark = self.mark()
        os.kill(self.pid(service), signal.SIGKILL)
        return mark

    def wait_well_again(self, mark: int) -> None:
        """Return when all services have been well since *mark*."""
        self.wait_for(lambda line: "all services are well again" in line, "to be well again", after=mark)

    def mark(self) -> int:
        """Return a mark that stands for what the log says from now on."""
        with self._news:
            return self._count

    def wait_for(
        self, wanted: Callable[[str], object], what: str, *, after: int, seconds: float = START_SECONDS
    ) -> str:
        """Return the first *wanted* line of the log after a mark.

        Raises:
            GridFailed: it did not come in time.
        """

        def find() -> str | None:
            skipped = max(0, len(self._lines) - (self._count - after))
            return next((line for index, line in enumerate(self._lines) if index >= skipped and wanted(line)), None)

        with self._news:
            self._news.wait_for(lambda: find() is not None or not self._follower.is_alive(), seconds)
            if (line := find()) is None:
                raise GridFailed(f"waited {seconds:g} s for the grid {what}; its last lines:\n{self._tail()}")
            return line

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal, and wait for nothing."""
        self.process.send_signal(number)

    def wait_stopped(self) -> int:
        """Return the exit status, when it has ended."""
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise GridFailed(f"the grid did not stop; its last lines:\n{self.tail()}") from None
        self._follower.join(STOP_SECONDS)
        return status

    def stop(self) -> int:
        """Stop it as Ctrl-C would, and return its exit status."""
        if self.process.poll() is None:
            self.ask_to_stop()
        return self.wait_stopped()

    def tail(self, lines: int = 100, *, after: int = 0) -> str:
        """Return the last lines of its log, of those after a mark."""
        with self._news:
            return self._tail(lines, after)

    def _tail(self, lines: int = 100, after: int = 0) -> str:
        return "\n".join(list(self._lines)[-max(1, min(lines, self._count - after)) :])

    def _follow(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._count += 1
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


@contextmanager
def running_grid(
    *options: str,
    data: Path | None = None,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Grid]:
    """Run a grid on free ports while the block runs; it must be ready at its beginning and end well."""
    with _directory(data) as where:
        port, console_port = free_ports(2)
        grid = Grid(
            where, port=port, console_port=console_port, options=options, prefix=prefix, environment=environment
        )
        try:
            grid.wait_ready()
            yield grid
        finally:
            status = grid.stop()
            # Shown with what fails.
            print(grid.tail())
        if status:
            raise GridFailed(f"the grid ended with status {status}; its last lines:\n{grid.tail()}")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def processes_in(directory: Path) -> list[str]:
    """Return pid and name of each process that works in *directory* or was told of it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not re.fullmatch(r"\d+", entry.name) or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_there = (entry / "cwd").readlink().is_relative_to(directory)
        except OSError:
            continue
        if works_there or str(directory) in words:
            found.append(f"{entry.name} {words}")
    return found


def wait_until_runs(command: Sequence[str]) -> None:
    """Return when a process runs exactly *command*: an action that has begun, as an assigned one may not have."""
    give_up = time.monotonic() + START_SECONDS
    while not runs(command):
        if time.monotonic() > give_up:
            raise GridFailed(f"waited {START_SECONDS:g} s for {command} to run")
        time.sleep(0.02)


def runs(command: Sequence[str]) -> bool:
    """Return whether a process runs exactly *command*."""
    wanted = b"".join(word.encode() + b"\0" for word in command)
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cmdline").read_bytes() == wanted:
                return True
        except OSError:
            continue  # gone
    return False


@contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    """Yield *wanted*, or a directory that goes with the block and that actions under another uid can enter."""
    if wanted is not None:
        yield wanted
        return
    where = Path(tempfile.mkdtemp(prefix="gridwright-"))
    where.chmod(0o755)
    try:
        yield where / "data"
    finally:
        shutil.rmtree(where, ignore_errors=True)
