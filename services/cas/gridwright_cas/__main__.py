"""The CAS as a process: ``python -m gridwright_cas --config grid.yaml``."""

import sys

from gridwright.wire.process import run
from gridwright_cas.app import open_app, open_child
from gridwright_cas.config import CasFile
from gridwright_cas.processes.child import CHILD_OPTION, run_child


def main() -> None:
    """Run the CAS until SIGTERM; as one of several where another CAS has started this one."""
    if sys.argv[1:2] == [CHILD_OPTION]:
        run_child(sys.argv[2:], open_child)
    else:
        run("cas", CasFile, open_app)


if __name__ == "__main__":
    main()
