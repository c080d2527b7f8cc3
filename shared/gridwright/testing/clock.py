"""A clock that tests move."""

from __future__ import annotations

from gridwright.clock import Clock


class FakeClock(Clock):
    """Stands still until it is told to advance."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._now += seconds
