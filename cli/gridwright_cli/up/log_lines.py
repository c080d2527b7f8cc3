"""The output of several services in one stream, line by line, each with its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

#: Longer lines are shown in pieces, so that a service that never ends its line cannot fill the memory.
MAX_LINE_BYTES = 64 * 1024


class LineSplitter:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their ends."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        while len(self._begun) > MAX_LINE_BYTES:
            lines.append(self._begun[:MAX_LINE_BYTES])
            self._begun = self._begun[MAX_LINE_BYTES:]
        return lines

    def rest(self) -> list[bytes]:
        """Return the last line, where it had no end."""
        line, self._begun = self._begun, b""
        return [line] if line else []


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether *stream* shows colours, and its reader wants them (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def prefix(name: str, colour: int, *, width: int, coloured: bool) -> bytes:
    """Return what stands before each line of *name*."""
    padded = name.ljust(width)
    return (f"\x1b[{colour}m{padded}\x1b[0m │ " if coloured else f"{padded} | ").encode()
