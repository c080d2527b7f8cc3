"""The worker's process."""

from __future__ import annotations

from gridwright.wire.process import run
from gridwright_worker.app import open_app
from gridwright_worker.config import WorkerFile


def main() -> None:
    """Run the worker until SIGTERM or SIGINT."""
    run("worker", WorkerFile, open_app)


if __name__ == "__main__":
    main()
