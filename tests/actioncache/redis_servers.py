"""Redis servers that tests start, stop and kill."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.dependency import DependencyHealth

_START_SECONDS = 20
_NOTHING_ON_DISK = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")


def a_health() -> DependencyHealth:
    """Return what hears of a Redis that nobody was asked about."""
    return DependencyHealth("redis", FakeClock())


def free_port() -> int:
    """Return a port that nobody listens on, whose cluster bus (10,000 higher) is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as bus:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port + 10_000 > 65_535:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class RedisServer:
    """One redis-server, or a sentinel, on a port of its own that it keeps when it is started again."""

    def __init__(self, directory: Path, *options: str, sentinel_of: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("needs redis-server: run scripts/install_test_servers.sh")
        self.port = free_port()
        self._directory = directory
        self._command: Sequence[str] = (program, *options)
        if sentinel_of:
            # A sentinel writes what it learns into its configuration.
            (directory / "sentinel.conf").write_text(sentinel_of)
            self._command = (program, str(directory / "sentinel.conf"), "--sentinel")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it listens."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
                    *(() if "--sentinel" in self._command else _NOTHING_ON_DISK),
                ],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _START_SECONDS
        while True:
            assert self._process.poll() is None, (self._directory / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.005)
            else:
                return

    def kill(self) -> None:
        """End it, and with it all that it holds."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cli(self, *arguments: str, check: bool = True) -> str:
        """Return what redis-cli prints."""
        command = ["redis-cli", "-p", str(self.port), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert not check or (done.returncode == 0 and "ERR" not in done.stdout), done.stdout + done.stderr
        return done.stdout.strip()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[RedisServer]:
    """Run a redis-server with these options."""
    server = RedisServer(directory, *options)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_cluster(directory: Path, *, masters: int = 3, replicas: int = 0) -> Iterator[Sequence[RedisServer]]:
    """Run a cluster of so many servers, which share the keys among them, and so many replicas of each."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no")
    servers = [RedisServer(directory / str(number), *options) for number in range(masters * (1 + replicas))]
    try:
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        servers[0].cli("--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes")
        until = time.monotonic() + _START_SECONDS
        while not all("cluster_state:ok" in server.cli("cluster", "info") for server in servers):
            assert time.monotonic() < until
            time.sleep(0.05)
        yield servers
    finally:
        for server in servers:
            server.kill()
