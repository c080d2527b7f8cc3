"""Becomes a service that hears of the death of the `gridwright up` that started it.

Run as a script, with the parent's pid and the service's command. The wish survives the
exec; it is of the thread that started this process, which in `gridwright up` is the main
one. ``preexec_fn`` could do the same, but forks beside gRPC's threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGTERM at the parent's death, then become the command."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(f"the process {parent} that starts {command} is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
