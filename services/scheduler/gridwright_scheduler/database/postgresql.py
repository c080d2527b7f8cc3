"""PostgreSQL: a server that schedulers reach over connections which may break at any moment."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import Connection, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gridwright.errors import ConfigurationError
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.migration import prepare
from gridwright_scheduler.database.postgresql_notices import CHANNEL, NoticeConnection
from gridwright_scheduler.database.topics import Topic

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Bounds the wait for a connection, be it new or one of the pool.
_CONNECT_SECONDS = 5.0
#: Bounds each statement; those of a turn take milliseconds.
_STATEMENT_SECONDS = 10.0
#: A scheduler that is stopped in a transaction, or whose machine is gone, keeps its locks for so long, and all others
#: waiting; these give a statement up only after that.
_IDLE_SECONDS = 4.0
#: How long a server that is not there is waited for at the start.
_START_SECONDS = 30.0
_POLL_SECONDS = 0.05
#: How often a transaction is run that others got in the way of.
_TRIES = 4
#: Held by whoever migrates. A number that means nothing, of which each database has its own.
_MIGRATING = 7_361_002

#: Classes of SQLSTATE that say something of the server, and nothing of the statement: connection, read-only or idle
#: transaction, authorization, resources, operator, system, internal.
_SERVER_FAULTS = ("08", "25", "28", "3D", "53", "55", "57", "58", "F0", "XX")
#: Serialization failure, deadlock, lock not available: the same transaction may well succeed now.
_CONFLICTS = ("40001", "40P01", "55P03")


_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', topic) FROM unnest(:topics) AS topic").bindparams(
    bindparam("topics", type_=ARRAY(Text))
)
#: Of the transaction, as connections of a pooler are others', too.
_BOUND_IDLENESS = text("SELECT set_config('idle_in_transaction_session_timeout', :milliseconds, true)")


class PostgresqlDatabase(Database):
    """A server, with one connection that writes, a few that read, and one on which others are heard.

    Nothing is kept in a connection from one transaction to the next, so that a pooler may
    stand in between; *notices* go past it.

    Args:
        pooled: a pooler is in between.
    """

    sole = False

    def __init__(self, engine: AsyncEngine, notices: NoticeConnection, *, readers: int, pooled: bool) -> None:
        self._engine = engine
        self._notices = notices
        self._pooled = pooled
        self._writing = asyncio.Lock()
        self._reading = asyncio.Semaphore(readers)
        self._writer: AsyncConnection | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._to_its_end(self._write(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._to_its_end(self._read(work))

    def notify(self, connection: Connection, topics: Collection[Topic]) -> None:
        connection.execute(_NOTIFY, {"topics": sorted(topics)})

    async def listen(self, heard: Callable[[Topic], None]) -> None:
        await self._notices.listen(heard)

    async def close(self) -> None:
        """End what runs, and hang up."""
        if self._running:
            await asyncio.wait(self._running)
        await self._hang_up()
        await self._engine.dispose()

    async def _to_its_end(self, running: Coroutine[Any, Any, T]) -> T:
        """Do not leave a transaction half done when whoever wants it goes away."""
        task = asyncio.create_task(running)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, also if nobody else does

    async def _write(self, work: Callable[[Connection], T]) -> T:
        async with self._writing:
            tries = broken = 0
            while True:
                tries += 1
                connected = at_commit = False
                try:
                    with _faults_as_operational_errors():
                        connection = await self._connected()
                        connected = True
                        async with connection.begin():
                            if self._pooled:
                                await connection.execute(_BOUND_IDLENESS, {"milliseconds": _idle_milliseconds()})
                            result = await connection.run_sync(work)
                            at_commit = True
                        return result
                except OperationalError as error:
                    await self._hang_up()
                    broken += 1
                    # One that was idle may have broken long ago, and so may the next, if it was made since; then the
                    # pool drops them all. What became of a COMMIT without an answer is unknown.
                    enough = 2 if isinstance(error.orig, TimeoutError) else 3
                    if not connected or at_commit or broken == enough:
                        raise
                except DBAPIError as error:
                    if _sqlstate(error) not in _CONFLICTS or tries == _TRIES:
                        raise
                except SQLAlchemyError:
                    # A transaction that could not be ended either would be in the way of all that follow.
                    await self._hang_up()
                    raise

    async def _read(self, work: Callable[[Connection], T]) -> T:
        with _faults_as_operational_errors():
            async with asyncio.timeout(_STATEMENT_SECONDS):
                await self._reading.acquire()
        try:
            return await self._read_once(work)
        except OperationalError:
            # The pool has dropped what broke, so this asks the server itself.
            return await self._read_once(work)
        finally:
            self._reading.release()

    async def _read_once(self, work: Callable[[Connection], T]) -> T:
        with _faults_as_operational_errors():
            async with self._engine.connect() as connection:
                return await connection.run_sync(work)

    async def _connected(self) -> AsyncConnection:
        if self._writer is None:
            self._writer = await self._engine.connect()
            driver = (await self._writer.get_raw_connection()).driver_connection
            # The server says with each notice whose it is; a pooler makes numbers up.
            self._notices.ours = None if self._pooled or driver is None else driver.get_server_pid()
        return self._writer

    async def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await _drop(writer)


async def _drop(connection: AsyncConnection) -> None:
    """End *connection*, which does not go back to the pool: nobody knows what state it is in."""
    try:
        with _faults_as_operational_errors():
            await connection.invalidate()
            await connection.close()
    except OperationalError as error:
        log.info("database_connection_was_broken", error=str(error))


@contextmanager
def _faults_as_operational_errors() -> Iterator[None]:
    """Give one form to all the ways in which a server is not there; the driver lets many of its own through."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, OperationalError):
            raise
        state = _sqlstate(error) or ""
        if error.connection_invalidated or (state.startswith(_SERVER_FAULTS) and state not in _CONFLICTS):
            raise OperationalError(error.statement, None, error.orig or error) from error
        raise
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise OperationalError(None, None, error if str(error) else TimeoutError("no answer in time")) from error


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


@asynccontextmanager
async def open_postgresql(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Open the database, once its server is there, its tables brought up to date if *settings* say so.

    Raises:
        ConfigurationError: nobody answers, we are not let in, or the tables are not ours.
    """
    if settings.migrates_at_start:
        await migrate_postgresql(settings)
    _check_password(settings)
    engine = _engine(
        settings,
        statement_seconds=_STATEMENT_SECONDS,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=_CONNECT_SECONDS,
    )
    notices = NoticeConnection(_connector(settings, settings.notify_url or settings.url, statement_seconds=None))
    database = PostgresqlDatabase(
        engine, notices, readers=settings.pool_size - 1, pooled=not settings.prepared_statements
    )
    try:
        await _patiently(lambda: database.write(lambda connection: prepare(connection, migrate=False)))
        yield database
    finally:
        await database.close()


def _check_password(settings: DatabaseSettings) -> None:
    if (file := settings.password_file) is not None and not file.is_file():
        raise ConfigurationError(f"scheduler.database.password_file: there is no file {file}")
    if (name := settings.password_env) and name not in os.environ:
        raise ConfigurationError(f"scheduler.database.password_env: the environment has no variable {name}")


async def migrate_postgresql(settings: DatabaseSettings) -> None:
    """Bring the tables up to date; of several that want to at once, one does.

    Raises:
        ConfigurationError: nobody answers, we are not let in, or the tables are those of a newer version.
    """
    _check_password(settings)
    engine = _engine(settings, statement_seconds=None, poolclass=NullPool)
    try:
        await _patiently(lambda: _migrate(engine))
    finally:
        await engine.dispose()


async def _migrate(engine: AsyncEngine) -> None:
    # The lock ends with its transaction, so that no connection, and no pooler, keeps it.
    lock = text("SELECT pg_try_advisory_xact_lock(:key)")
    with _faults_as_operational_errors():
        while True:
            async with engine.begin() as connection:
                if (await connection.execute(lock, {"key": _MIGRATING})).scalar_one():
                    await connection.run_sync(lambda it: prepare(it, migrate=True))
                    return
            await asyncio.sleep(_POLL_SECONDS)


async def _patiently(start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for a server that comes up at the same time as we do."""
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            return await start()
        except OperationalError as error:
            state = getattr(error.orig, "sqlstate", None) or ""
            hopeless = state.startswith(("28", "3D")) or isinstance(error.orig, ValueError)
            if hopeless or time.monotonic() > give_up:
                raise ConfigurationError(
                    f"scheduler.database.url: cannot open the database: {error.orig}; see to it that the server runs, "
                    "and that the address, the user and the password are right"
                ) from None
            log.warning("waiting_for_database", error=str(error.orig))
            await asyncio.sleep(1.0)
        except ValueError as error:
            raise ConfigurationError(f"scheduler.database.url: {error}") from None


def _engine(settings: DatabaseSettings, *, statement_seconds: float | None, **pool: Any) -> AsyncEngine:
    connector = _connector(settings, settings.url, statement_seconds=statement_seconds)
    driver: dict[str, Any] = {"async_creator_fn": connector}
    if not settings.prepared_statements:
        # Without a name a statement lasts until the next one, and is in no other connection's way.
        driver |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    return create_async_engine("postgresql+asyncpg://", connect_args=driver, **pool)


def _connector(
    settings: DatabaseSettings, url: str, *, statement_seconds: float | None
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return what makes a connection; the driver itself reads *url*, which may say all that libpq's may."""
    options: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "command_timeout": statement_seconds}
    if not settings.prepared_statements:
        options["statement_cache_size"] = 0
    if (file := settings.password_file) is not None:
        options["password"] = lambda: file.read_text().strip()
    elif settings.password_env:
        options["password"] = os.environ.get(settings.password_env)
    options["server_settings"] = {"application_name": "gridwright-scheduler"}

    async def connect(*_: Any, **__: Any) -> Any:
        connection = await asyncpg.connect(url, **options)
        if settings.prepared_statements and statement_seconds is not None:
            # Not at the connect: a pooler, of which we may not have been told, would refuse that.
            await connection.execute(
                f"SET idle_in_transaction_session_timeout = {_idle_milliseconds()}; "
                # Whoever waits for a locked row has to see what it became.
                "SET default_transaction_isolation = 'read committed'"
            )
        return connection

    return connect


def _idle_milliseconds() -> str:
    return str(int(_IDLE_SECONDS * 1000))
