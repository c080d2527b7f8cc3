"""Opens the database that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gridwright_scheduler.config import DatabaseSettings, Migrate
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.sqlite import open_sqlite


@asynccontextmanager
async def open_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Open the database while the block runs.

    Raises:
        ConfigurationError: it cannot be used with these settings, and the text says what to do.
    """
    if settings.is_postgresql:
        # Heavy, and not wanted on a laptop.
        from gridwright_scheduler.database.postgresql import open_postgresql

        async with open_postgresql(settings) as database:
            yield database
    else:
        async with open_sqlite(settings.path, migrate=settings.migrates_at_start) as database:
            yield database


async def migrate_database(settings: DatabaseSettings) -> None:
    """Bring the tables up to date: the whole of ``gridwright-scheduler migrate``.

    Raises:
        ConfigurationError: the database cannot be opened, or is of a newer Gridwright.
    """
    if settings.is_postgresql:
        from gridwright_scheduler.database.postgresql import migrate_postgresql

        await migrate_postgresql(settings)
        return
    async with open_database(settings.model_copy(update={"migrate": Migrate.AUTO})):
        pass
