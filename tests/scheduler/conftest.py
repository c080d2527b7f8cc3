"""Fixtures of the scheduler's tests; each test that keeps something runs on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.opening import migrate_database
from tests.postgres import PostgresServer, postgres_server
from tests.scheduler.databases import Tables, use_postgresql
from tests.scheduler.grid import Grid, open_grid

_TEMPLATE = "template_of_tests"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test run on both databases if it has a directory to keep something in, and does not name one itself."""
    names = set(metafunc.fixturenames)
    if names & {"tmp_path", "grid", "tables"} and not names & {"sqlite_only", "postgres", "durable_postgres"}:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that has a database with the scheduler's tables, for others to be like it."""
    with postgres_server() as server:
        server.sql(f"CREATE DATABASE {_TEMPLATE}")
        asyncio.run(migrate_database(DatabaseSettings(url=server.url(_TEMPLATE))))
        yield server


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[PostgresServer | None]:
    """The server that the test's scheduler uses; None: SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.new_database(_TEMPLATE)
    use_postgresql(request.getfixturevalue("tmp_path"), server, name)
    yield server
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_only() -> None:
    """Says that a test is about SQLite."""


@pytest.fixture
def tables(tmp_path: Path, database: PostgresServer | None) -> Tables:
    """The tables of the test's scheduler."""
    return Tables(tmp_path, database)


@pytest.fixture
async def grid(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Grid]:
    """A scheduler with ordinary settings."""
    async with open_grid(tmp_path) as opened:
        yield opened
