"""How the commands end, and say why."""

from __future__ import annotations

import sys

from gridwright.errors import (
    DeadlineExceeded,
    GridwrightError,
    InvalidRequest,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

#: As the command line's own parser has it: what was asked makes no sense.
EXIT_USAGE = 2
#: The server cannot be reached, or cannot answer now.
EXIT_UNAVAILABLE = 121
#: The server refuses: no such instance, no right, not offered.
EXIT_REFUSED = 122
#: The server could not run the action, or something failed on the way.
EXIT_FAILED = 123
#: The command ran out of time; what coreutils' ``timeout`` says, too.
EXIT_TIMEOUT = 124
#: A path of this machine cannot be read or written, or an output was not made.
EXIT_PATHS = 125
#: Ctrl-C, as shells say it.
EXIT_INTERRUPTED = 130


def exit_status(error: GridwrightError) -> int:
    """Return the exit status for *error*."""
    match error:
        case Unavailable():
            return EXIT_UNAVAILABLE
        case InvalidRequest() | Unauthenticated() | PermissionDenied() | Unimplemented():
            return EXIT_REFUSED
        case DeadlineExceeded():
            return EXIT_TIMEOUT
        case _:
            return EXIT_FAILED


def complain(text: str) -> None:
    """Say on stderr what went wrong, in one line."""
    print(f"gridwright: {' '.join(text.split())}", file=sys.stderr)
