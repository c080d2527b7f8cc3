"""A wish to stop, which is granted between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Somebody wants this to stop, and everything is whole."""


class Stop:
    """Becomes true at the first SIGINT or SIGTERM; the second one ends the process as usual."""

    def __init__(self) -> None:
        self.wanted = False

    def check(self) -> None:
        """Come here between two steps.

        Raises:
            Stopped: it is wanted.
        """
        if self.wanted:
            raise Stopped

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to signals while the block runs."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: object) -> None:
        self.wanted = True
        signal.signal(number, signal.SIG_DFL)
