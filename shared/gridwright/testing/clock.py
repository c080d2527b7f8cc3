"""A clock that tests move."""

from __future__ import annotations

from gridwright.clock import Clock


class FakeClock(Clock):
    """Stands still until it is told to advance."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1_000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._now += seconds
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Set the wall clock back by *seconds*, or forward if they are negative, as no time passes."""
        self._now -= seconds
