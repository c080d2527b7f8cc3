"""The databases that the tests of the scheduler run on: the file ``postgresql.url`` in a test's directory names one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gridwright_scheduler.config import DatabaseSettings
from tests.postgres import PostgresServer

_FILE = "postgresql.url"
#: The database that has the tables, for others to be like it.
TEMPLATE = "template_of_tests"
_REPLICAS = "replicas"


def use_postgresql(directory: Path, server: PostgresServer, name: str, *, replicas: int = 1) -> None:
    """Have schedulers in *directory* use the database *name* of *server*, *replicas* of them at a time."""
    (directory / _FILE).write_text(server.url(name))
    (directory / _REPLICAS).write_text(str(replicas))


def replicas_in(directory: Path) -> int:
    """Return how many schedulers in *directory* are to share its database."""
    file = directory / _REPLICAS
    return int(file.read_text()) if file.exists() else 1


def settings_in(directory: Path) -> dict[str, Any]:
    """Return the section ``scheduler.database`` for a scheduler in *directory*."""
    file = directory / _FILE
    url = file.read_text() if file.exists() else f"sqlite:///{directory}/scheduler.db"
    # A template has the tables already, and few connections will do.
    return {"url": url, "pool_size": 3}


def database_in(directory: Path) -> DatabaseSettings:
    """Return the same, read."""
    return DatabaseSettings(**settings_in(directory))


class Tables:
    """The tables of a scheduler, for a test to look into or to change behind its back."""

    def __init__(self, directory: Path, server: PostgresServer | None) -> None:
        self._file = directory / "scheduler.db"
        self._server = server
        self._name = "" if server is None else (directory / _FILE).read_text().rpartition("/")[2]

    def execute(self, statement: str) -> list[tuple[str, ...]]:
        """Run *statement*; return its rows as texts, bytes as ``\\x`` and their digits."""
        if self._server is not None:
            lines = self._server.sql(statement, database=self._name).splitlines()
            return [tuple(line.split("|")) for line in lines]
        with closing(sqlite3.connect(self._file)) as database:
            rows = database.execute(statement).fetchall()
            database.commit()
        return [tuple(_text(value) for value in row) for row in rows]

    @property
    def no_bytes(self) -> str:
        """How a statement says that there are no bytes."""
        return "x''" if self._server is None else "''"

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let nothing be written while the block runs; what is there can be read."""
        if self._server is None:
            with closing(sqlite3.connect(self._file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                yield
                other.execute("ROLLBACK")
            return
        read_only = f"ALTER DATABASE {self._name} SET default_transaction_read_only"
        others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
        self._server.sql(f"{read_only} = on", others)
        try:
            yield
        finally:
            self._server.sql(f"ALTER DATABASE {self._name} RESET default_transaction_read_only", others)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return "" if value is None else str(value)
