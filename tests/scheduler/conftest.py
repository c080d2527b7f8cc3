"""Fixtures of the scheduler's tests: what keeps something runs on SQLite, on PostgreSQL, and with replicas there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.opening import migrate_database
from tests.postgres import PostgresServer, postgres_server
from tests.scheduler.databases import TEMPLATE, Tables, use_postgresql
from tests.scheduler.grid import Grid, open_grid

#: How many schedulers share the database, by the modes of a test.
_REPLICAS = {"sqlite": 1, "postgresql": 1, "three replicas": 3}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test run in all modes if it has a directory to keep something in, and does not name one itself."""
    names = set(metafunc.fixturenames)
    if names & {"tmp_path", "grid", "tables"} and not names & {"sqlite_only", "postgres", "durable_postgres"}:
        modes = list(_REPLICAS) if "one_replica" not in names else ["sqlite", "postgresql"]
        metafunc.parametrize("database", modes, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that has a database with the scheduler's tables, for others to be like it."""
    with postgres_server() as server:
        server.sql(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(migrate_database(DatabaseSettings(url=server.url(TEMPLATE))))
        yield server


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[PostgresServer | None]:
    """The server that the test's scheduler uses; None: SQLite."""
    mode = getattr(request, "param", "sqlite")
    if mode == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.new_database(TEMPLATE)
    use_postgresql(request.getfixturevalue("tmp_path"), server, name, replicas=_REPLICAS[mode])
    yield server
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_only() -> None:
    """Says that a test is about SQLite."""


@pytest.fixture
def one_replica() -> None:
    """Says that a test looks into the process of a scheduler, so that others beside it are in the way."""


@pytest.fixture
def tables(tmp_path: Path, database: PostgresServer | None) -> Tables:
    """The tables of the test's scheduler."""
    return Tables(tmp_path, database)


@pytest.fixture
async def grid(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Grid]:
    """A scheduler with ordinary settings."""
    async with open_grid(tmp_path) as opened:
        yield opened
