"""What the user of `gridwright up` sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import BinaryIO

from gridwright_cli.up.log_lines import prefix, wants_colour
from gridwright_cli.up.services import SERVICES, Service

_UP_COLOUR = 1  # bold


class Console:
    """Log lines, each with the name of who wrote it, on stderr; what scripts wait for, on stdout.

    A reader that has gone away does not stop the grid.
    """

    def __init__(self) -> None:
        self._coloured = wants_colour(sys.stderr, os.environ)
        self._width = max(len(service.name) for service in SERVICES)
        self._own = self._prefix("up", _UP_COLOUR)

    def line_of(self, service: Service) -> Callable[[bytes], None]:
        """Return what shows a log line of *service*."""
        start = self._prefix(service.name, service.colour)
        return lambda line: _write(sys.stderr.buffer, start + line + b"\n")

    def say(self, text: str) -> None:
        """Show a line of our own among the logs."""
        _write(sys.stderr.buffer, self._own + text.encode() + b"\n")

    def show(self, text: str) -> None:
        """Show what the user asked for."""
        _write(sys.stdout.buffer, text.encode() + b"\n")

    def _prefix(self, name: str, colour: int) -> bytes:
        return prefix(name, colour, width=self._width, coloured=self._coloured)


def _write(stream: BinaryIO, data: bytes) -> None:
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        pass
