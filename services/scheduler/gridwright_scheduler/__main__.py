"""Runs the scheduler: ``python -m gridwright_scheduler --config grid.yaml``."""

import sys

from gridwright.wire.process import run
from gridwright_scheduler.app import open_app
from gridwright_scheduler.config import SchedulerFile
from gridwright_scheduler.migrate import migrate


def main() -> None:
    """Run until SIGTERM or SIGINT; or, with the word ``migrate``, bring the database up to date and end."""
    match sys.argv[1:]:
        case ["migrate", *options]:
            migrate(options)
        case _:
            run("scheduler", SchedulerFile, open_app)


if __name__ == "__main__":
    main()
