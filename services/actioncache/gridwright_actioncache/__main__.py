"""The action cache as a process: ``python -m gridwright_actioncache --config grid.yaml``."""

from gridwright.wire.process import run
from gridwright_actioncache.app import open_app
from gridwright_actioncache.config import ActionCacheFile


def main() -> None:
    """Run the action cache until SIGTERM."""
    run("actioncache", ActionCacheFile, open_app)


if __name__ == "__main__":
    main()
