"""A PostgreSQL server that tests start, stop and kill."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

_START_SECONDS = 30
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgresServer:
    """One server, which keeps its port and its data when it is started again.

    Args:
        durable: whether what is committed survives also the end of the machine; slower.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._options = () if durable else _FAST
        self._as_user: Sequence[str] = ()
        if os.geteuid() == 0:
            # The server refuses to run as root.
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)
            # Not by `Popen(user=…)`, which forks in a way that processes with gRPC in them do not survive.
            self._as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test_{number}" for number in count())
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        hosts = self._data / "pg_hba.conf"
        hosts.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{hosts.read_text()}")
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Return the address of *database*."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self._directory}")
        options = [word for setting in (*settings, *self._options) for word in ("-c", setting)]
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._as_user, _program("postgres"), "-D", str(self._data), *options],
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=_environment(),
            )
        until = time.monotonic() + _START_SECONDS
        while subprocess.run(self._client("pg_isready", "-q"), check=False).returncode:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill(self) -> None:
        """End it and all its processes without a word."""
        assert self._process is not None
        # As it is gone its children notice, and end.
        self._process.kill()
        self._process.wait(30)
        self._process = None
        until = time.monotonic() + _START_SECONDS
        while self._all():
            assert time.monotonic() < until
            time.sleep(0.02)

    def freeze(self) -> None:
        """Let it keep its connections, and answer nothing on them."""
        for process in self._all():
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for process in self._all():
            os.kill(process, signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order, without waiting for those who are connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def new_database(self, template: str = "template1") -> str:
        """Make a database like *template*; return its name."""
        name = next(self._names)
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run *statements*; return the rows of the last that has some, one a line, its columns apart by ``|``."""
        commands = [word for statement in statements for word in ("-c", statement)]
        command = [*self._client("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database), *commands]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _all(self) -> list[int]:
        """Return the processes of the server; each of its connections has one, and they outlive the first a little."""
        found = []
        for one in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if os.readlink(one) == str(self._data):
                    found.append(int(one.parent.name))
        return found

    def _client(self, program: str, *options: str) -> list[str]:
        return [_program(program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", *options]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, _program(program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._directory,
            env=_environment(),
        )


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a server with an empty database."""
    # Not in a directory of pytest's: these are for root alone, and the server runs as somebody else.
    directory = Path(tempfile.mkdtemp(prefix="gridwright-postgres.", dir="/tmp"))
    try:
        server = PostgresServer(directory, durable=durable)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


def _program(name: str) -> str:
    # Debian keeps those that are for servers off the PATH.
    found = [*([path] if (path := shutil.which(name)) else []), *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))]
    if not found:
        pytest.skip("needs PostgreSQL: run scripts/install_test_servers.sh")
    return found[-1]
