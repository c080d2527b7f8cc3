"""How the tables of a database come to the form that this version needs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from gridwright.errors import ConfigurationError
from gridwright_scheduler.config import DatabaseSettings, Migrate
from gridwright_scheduler.database.opening import migrate_database, open_database
from gridwright_scheduler.database.schema import metadata
from tests.postgres import PostgresServer
from tests.scheduler.databases import Tables, database_in, use_postgresql


@pytest.fixture
def empty(tmp_path: Path, database: PostgresServer | None) -> DatabaseSettings:
    """A database without tables."""
    settings = database_in(tmp_path)
    if database is not None:
        name = settings.url.rpartition("/")[2]
        database.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
    return settings


async def test_migrations_make_the_tables_that_the_statements_are_written_for(empty: DatabaseSettings) -> None:
    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, metadata)

    await migrate_database(empty)
    async with open_database(empty) as opened:
        assert await opened.read(differences) == []


@pytest.mark.parametrize("has_request_metadata", [False, True])
async def test_a_database_from_before_there_were_migrations_keeps_what_is_in_it(
    empty: DatabaseSettings, tables: Tables, monkeypatch: pytest.MonkeyPatch, has_request_metadata: bool
) -> None:
    with monkeypatch.context() as old:
        old.setattr("gridwright_scheduler.database.migration.WANTED", "0002" if has_request_metadata else "0001")
        await migrate_database(empty)
    tables.execute("DROP TABLE alembic_version")
    tables.execute("INSERT INTO bots (instance, bot_id, session) VALUES ('main', 'old', 'main/old')")
    await migrate_database(empty)
    await migrate_database(empty)
    async with open_database(empty):
        assert tables.execute("SELECT bot_id FROM bots") == [("old",)]
        assert tables.execute("SELECT count(*) FROM request_metadata") == [("0",)]
        assert tables.execute("SELECT count(*) FROM alembic_version") == [("1",)]


async def test_a_scheduler_that_is_not_to_migrate_says_what_to_run(empty: DatabaseSettings) -> None:
    settings = empty.model_copy(update={"migrate": Migrate.NEVER})
    with pytest.raises(ConfigurationError, match=r"it has no tables.*run: gridwright-scheduler migrate --config"):
        async with open_database(settings):
            pytest.fail("there are no tables")
    await migrate_database(settings)
    async with open_database(settings):
        pass


async def test_the_tables_of_a_newer_version_are_left_alone(empty: DatabaseSettings, tables: Tables) -> None:
    await migrate_database(empty)
    tables.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"revision 9999.*newer Gridwright"):
        async with open_database(empty):
            pytest.fail("who knows what is in them")
    with pytest.raises(ConfigurationError, match="newer Gridwright"):
        await migrate_database(empty)
    assert tables.execute("SELECT version_num FROM alembic_version") == [("9999",)]


async def test_of_several_that_migrate_at_once_one_does(tmp_path: Path, postgres: PostgresServer) -> None:
    name = postgres.new_database()
    use_postgresql(tmp_path, postgres, name)
    settings = {"scheduler": {"database_url": postgres.url(name)}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(settings))
    command = (sys.executable, "-m", "gridwright_scheduler", "migrate", "--config", str(tmp_path / "grid.yaml"))
    running = [await asyncio.create_subprocess_exec(*command) for _ in range(3)]
    assert [await process.wait() for process in running] == [0, 0, 0]
    async with open_database(database_in(tmp_path)):
        pass
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_that_cannot_be_migrated_is_said(tmp_path: Path, sqlite_only: None) -> None:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"scheduler": {"database_url": "mysql://x"}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridwright_scheduler", "migrate", "--config", str(tmp_path / "grid.yaml")),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 78
    assert b"scheduler.database_url: write sqlite:///PATH or postgresql://" in said
