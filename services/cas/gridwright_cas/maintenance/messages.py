"""What the process says, in lines of JSON on stdout.

Each line is an object with one key: ``progress`` (how far it has come), ``result`` (one, at the
end), ``error`` (why there is none), or what the command finds: ``blob``, ``bad``, ``absent``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, TextIO

_PROGRESS_SECONDS = 0.1


class Messages:
    """Writes the lines, those of progress no more than ten times a second."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._next_progress = 0.0

    def say(self, about: str, what: object) -> None:
        """Write one line.

        Raises:
            BrokenPipeError: nobody listens any more.
        """
        self._to.write(json.dumps({about: what}, separators=(",", ":")) + "\n")
        if about != "blob":
            self._to.flush()

    def result(self, what: Mapping[str, Any]) -> None:
        """Write what came of it."""
        self.say("result", what)

    def progress(self, what: str, done: int, total: int | None, unit: str) -> None:
        """Say how far it has come; *unit* is ``bytes``, or what else is counted."""
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self.say("progress", {"what": what, "done": done, "total": total, "unit": unit})
