"""How the database is opened; the one place that knows which database it is."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from gridwright.errors import ConfigurationError, Unavailable
from gridwright.file_lock import try_lock
from gridwright_scheduler.database.schema import metadata

T = TypeVar("T")

_BUSY_TIMEOUT_MS = 5_000


class Database(Protocol):
    """Runs transactions.

    What is to be done in one is a plain function of a connection, so that it costs one
    change of threads here, and may run over an asynchronous driver (``run_sync``) elsewhere.
    """

    @abstractmethod
    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run *work* in a transaction that is durable on return; one at a time.

        *work* runs beside the event loop, and touches nothing that the loop changes.

        Raises:
            SQLAlchemyError: the transaction came to nothing.
        """

    @abstractmethod
    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run *work*, which only reads, without waiting for writers.

        Raises:
            SQLAlchemyError: it came to nothing.
        """


class SqliteDatabase(Database):
    """A file, with one thread that writes and one that reads.

    Through an asynchronous driver each statement would change threads four times; see
    docs/decisions/0004-sqlite-in-a-thread-of-its-own.md.
    """

    def __init__(self, engine: Engine) -> None:
        self._writer = _Lane(engine, begin="BEGIN IMMEDIATE")
        self._reader = _Lane(engine, begin="BEGIN")

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._reader.run(work)

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


def no_answer() -> Unavailable:
    """Return what callers hear when a transaction came to nothing."""
    return Unavailable("the scheduler's database does not answer; try again")


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open the database at *url*, its tables made where they are not there.

    Raises:
        ConfigurationError: *url* is none, or names a database that is not supported or cannot be opened.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"scheduler.database_url: {error}") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise ConfigurationError("scheduler.database_url: only sqlite:///PATH is supported")
    lock = _sole_use(Path(parsed.database))
    engine = create_engine(
        parsed.set(drivername="sqlite"), poolclass=NullPool, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    database = SqliteDatabase(engine)
    try:
        await _create_tables(database, parsed.database)
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
        raise ConfigurationError(f"scheduler.database_url: cannot use {path}: {error.strerror}") from None
    if lock is None:
        raise ConfigurationError(f"scheduler.database_url: another scheduler uses {path}; give each its own")
    return lock


async def _create_tables(database: Database, path: str) -> None:
    try:
        await database.write(metadata.create_all)
    except OperationalError as error:
        raise ConfigurationError(f"scheduler.database_url: cannot open {path}: {error.orig}") from None
    except DatabaseError as error:
        raise ConfigurationError(
            f"scheduler.database_url: {path} is damaged, or no database ({error.orig}); move it away to begin with an "
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
