"""The CAS as a process: ``python -m gridwright_cas --config grid.yaml``."""

from gridwright.wire.process import run
from gridwright_cas.app import open_app
from gridwright_cas.config import CasFile


def main() -> None:
    """Run the CAS until SIGTERM."""
    run("cas", CasFile, open_app)


if __name__ == "__main__":
    main()
