"""Brings the tables of a database to the form that this version works with."""

from __future__ import annotations

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from gridwright.errors import ConfigurationError

log = structlog.get_logger(__name__)

_SCRIPTS = Path(__file__).with_name("migrations")
#: The form of tables that were made before there were migrations.
_BEFORE_MIGRATIONS = "0001"
#: The form that this version works with: the newest.
WANTED = "head"
_VERB = "gridwright-scheduler migrate"


def prepare(connection: Connection, *, migrate: bool) -> None:
    """Bring the tables up to date if *migrate* says so, else make sure that they are; in one transaction, the caller's.

    Raises:
        ConfigurationError: they are of a newer version, or of an older one and are not to be migrated.
    """
    scripts = ScriptDirectory(str(_SCRIPTS))
    known = {script.revision for script in scripts.walk_revisions()}
    wanted = scripts.as_revision_number(WANTED)
    found = MigrationContext.configure(connection).get_current_revision()
    if found == wanted:
        return
    if found is not None and found not in known:
        raise ConfigurationError(
            f"scheduler.database: its tables (revision {found}) are those of a newer Gridwright than this one, which "
            f"has {wanted}; run that version, or name another database"
        )
    if not migrate:
        has = "no tables" if found is None else f"tables of revision {found}"
        raise ConfigurationError(
            f"scheduler.database: it has {has}, and this version needs revision {wanted}; stop the schedulers that "
            f"use it and run: {_VERB} --config FILE"
        )
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if found is None and inspect(connection).has_table("actions"):
        command.stamp(config, _BEFORE_MIGRATIONS)
    command.upgrade(config, WANTED)
    log.info("tables_migrated", found=found or "none", now=wanted)
