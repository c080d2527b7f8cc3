"""Runs the scheduler: ``python -m gridwright_scheduler --config grid.yaml``."""

from gridwright.wire.process import run
from gridwright_scheduler.app import open_app
from gridwright_scheduler.config import SchedulerFile


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    run("scheduler", SchedulerFile, open_app)


if __name__ == "__main__":
    main()
