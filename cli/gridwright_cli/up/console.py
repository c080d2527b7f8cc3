"""What the user of `gridwright up` sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gridwright_cli.up.log_lines import prefix, wants_colour
from gridwright_cli.up.outlet import Outlet
from gridwright_cli.up.services import SERVICES, Service

_UP_COLOUR = 1  # bold
#: What waits at the end for a slow reader, waits so long.
_CLOSE_SECONDS = 1.0


class Console:
    """Log lines, each with the name of who wrote it, on stderr; what scripts wait for, on stdout.

    A context: what was said is shown by its end, if somebody reads it. A reader that is slow
    or has gone away neither stops nor delays the grid.
    """

    def __init__(self) -> None:
        self._coloured = wants_colour(sys.stderr, os.environ)
        self._width = max(len(service.name) for service in SERVICES)
        self._own = self._prefix("up", _UP_COLOUR)
        self._log = Outlet(sys.stderr.fileno(), self._dropped)
        self._answers = Outlet(sys.stdout.fileno(), self._dropped)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._log.close(_CLOSE_SECONDS)
        self._answers.close(_CLOSE_SECONDS)

    def line_of(self, service: Service) -> Callable[[bytes], None]:
        """Return what shows a log line of *service*."""
        start = self._prefix(service.name, service.colour)
        return lambda line: self._log.write(start + line + b"\n")

    def say(self, text: str) -> None:
        """Show a line of our own among the logs."""
        self._log.write(self._own + text.encode() + b"\n")

    def show(self, text: str) -> None:
        """Show what the user asked for."""
        self._answers.write(text.encode() + b"\n")

    def _prefix(self, name: str, colour: int) -> bytes:
        return prefix(name, colour, width=self._width, coloured=self._coloured)

    def _dropped(self, lines: int) -> bytes:
        return self._own + f"{lines} lines are not shown: nobody read them in time\n".encode()
