"""SQLite: a file that one scheduler has to itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from gridwright.errors import ConfigurationError
from gridwright.file_lock import try_lock
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.migration import prepare
from gridwright_scheduler.database.topics import Topic

T = TypeVar("T")

_BUSY_TIMEOUT_MS = 5_000


class SqliteDatabase(Database):
    """A file, with one thread that writes and one that reads.

    Through an asynchronous driver each statement would change threads four times; see
    docs/decisions/0004-sqlite-in-a-thread-of-its-own.md.
    """

    sole = True

    def __init__(self, engine: Engine) -> None:
        self._writer = _Lane(engine, begin="BEGIN IMMEDIATE")
        self._reader = _Lane(engine, begin="BEGIN")

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._reader.run(work)

    def notify(self, connection: Connection, topics: Collection[Topic]) -> None:
        """There is nobody to tell."""

    async def listen(self, heard: Callable[[Topic], None]) -> None:
        """There is nobody to hear of."""

    async def close(self) -> None:
        """End what runs, and close the file."""
        await self._writer.close()
        await self._reader.close()


class _Lane:
    """One thread with one connection."""

    def __init__(self, engine: Engine, *, begin: str) -> None:
        self._engine = engine
        # A transaction that starts as a reader and then writes fails where one that waits for the lock does not.
        self._begin = begin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _run(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            self._connection.exec_driver_sql(self._begin)
            return work(self._connection)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@asynccontextmanager
async def open_sqlite(path: str, *, migrate: bool) -> AsyncIterator[Database]:
    """Open the file at *path*, its tables brought up to date if *migrate* says so.

    Raises:
        ConfigurationError: it cannot be opened, is no database, is another scheduler's, or its tables are not ours.
    """
    lock = _sole_use(Path(path))
    engine = create_engine(
        URL.create("sqlite", database=path), poolclass=NullPool, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    database = SqliteDatabase(engine)
    try:
        await _bring_up_to_date(database, path, migrate=migrate)
        yield database
    finally:
        await database.close()
        engine.dispose()
        os.close(lock)


def _sole_use(path: Path) -> int:
    """Keep a second scheduler out: two would give the same action to two workers."""
    try:
        lock = try_lock(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        raise ConfigurationError(f"scheduler.database.url: cannot use {path}: {error.strerror}") from None
    if lock is None:
        raise ConfigurationError(f"scheduler.database.url: another scheduler uses {path}; give each its own")
    return lock


async def _bring_up_to_date(database: Database, path: str, *, migrate: bool) -> None:
    try:
        await database.write(lambda connection: prepare(connection, migrate=migrate))
    except OperationalError as error:
        raise ConfigurationError(f"scheduler.database.url: cannot open {path}: {error.orig}") from None
    except DatabaseError as error:
        raise ConfigurationError(
            f"scheduler.database.url: {path} is damaged, or no database ({error.orig}); move it away to begin with an "
            "empty queue: builds that run now have to be started again"
        ) from None


def _prepare(connection: Any, _record: object) -> None:
    """Make transactions ours: the driver would begin them late, and without the write lock."""
    connection.isolation_level = None
    cursor = connection.cursor()
    # With NORMAL a commit survives the death of the process; one after a power cut may be lost, never torn.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
