"""The verb ``gridwright-scheduler migrate``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gridwright.errors import ConfigurationError
from gridwright.settings import load_settings
from gridwright.wire.process import EXIT_CONFIG
from gridwright_scheduler.config import SchedulerFile
from gridwright_scheduler.database.opening import migrate_database


def migrate(options: Sequence[str]) -> None:
    """Bring the tables of the database to the form that this version needs; several may at once."""
    parser = argparse.ArgumentParser(
        prog="gridwright-scheduler migrate", description="Brings the scheduler's database up to date, and ends."
    )
    parser.add_argument("--config", type=Path, help="the grid's settings file (YAML)")
    arguments = parser.parse_args(options)
    try:
        settings = load_settings(SchedulerFile, path=arguments.config, environ=os.environ)
        asyncio.run(migrate_database(settings.scheduler.state))
    except ConfigurationError as error:
        print(f"gridwright-scheduler migrate: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
