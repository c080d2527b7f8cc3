"""A PostgreSQL server, for the time of a benchmark."""

from __future__ import annotations

import asyncio
import glob
import os
import pwd
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.service_process import cpu_seconds

_START_SECONDS = 30.0
_ASK_EVERY_SECONDS = 0.02
_DATABASE = "bench"


@dataclass(frozen=True, slots=True)
class PostgresqlProcess:
    """A server that runs, with an empty database for a service."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """The address of the service's database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{_DATABASE}"

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes that run now, of which each connection has one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(cpu_seconds(pid) for pid in (self.pid, *map(int, children)))

    async def transactions(self) -> int:
        """Return how many the database has committed, as far as its connections have told; they do once a second."""
        count: int = await self.value(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = $1", _DATABASE, database="postgres"
        )
        return count

    async def value(self, query: str, *arguments: object, database: str = _DATABASE) -> int:
        """Return the number that *query* has for an answer."""
        connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/{database}")
        try:
            found: int = await connection.fetchval(query, *arguments)
            return found
        finally:
            await connection.close()


@asynccontextmanager
async def own_postgresql() -> AsyncIterator[PostgresqlProcess]:
    """Run a server with its own settings for durability, which are those of production, while the block runs.

    Raises:
        SystemExit: there is none on this machine, or it does not get ready.
    """
    # Not where the other processes work: that may be for root alone, and this one refuses to run as root.
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-", ignore_cleanup_errors=True) as directory:
        as_user: Sequence[str] = ()
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)
            as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
        data, log, port = Path(directory) / "data", Path(directory) / "log", _free_port()
        initdb = (_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        made = await asyncio.create_subprocess_exec(*as_user, *initdb, cwd=directory, stdout=DEVNULL)
        if await made.wait():
            sys.exit("initdb could not make a database")
        settings = (f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={directory}")
        options = [word for setting in settings for word in ("-c", setting)]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(*as_user, _program("postgres"), "-D", str(data), *options),
                cwd=directory,
                stdout=output,
                stderr=output,
            )
        try:
            await _make_database(process, port, log)
            yield PostgresqlProcess(process.pid, port)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _make_database(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while process.returncode is None:
            try:
                connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres")
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(_ASK_EVERY_SECONDS)
                continue
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
            await connection.close()
            return
    sys.exit(f"PostgreSQL ended before it was ready:\n{await asyncio.to_thread(log.read_text)}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _program(name: str) -> str:
    # Debian keeps those that are for servers off the PATH.
    found = [*filter(None, [shutil.which(name)]), *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))]
    if not found:
        sys.exit("this benchmark needs PostgreSQL; install it with: apt-get install postgresql")
    return found[-1]
