"""The clock of somebody else, by which all go that share something with him."""

from __future__ import annotations

from gridwright.clock import Clock


class ShiftedClock(Clock):
    """Schedulers that share tables compare times that others have stored, so all go by the clock of the database.

    It is not asked each time: how far it is from ours changes slowly, and whoever talks to it
    anyway says so here. Until somebody has, *inner* is right; from then on it only counts the
    seconds, as a step of our own clock would make leases overdue and other schedulers dead.
    """

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        #: Of the monotonic clock.
        self._ahead_seconds: float | None = None

    def now(self) -> float:
        return self._inner.now() if self._ahead_seconds is None else self._inner.monotonic() + self._ahead_seconds

    def monotonic(self) -> float:
        return self._inner.monotonic()

    def measured(self, theirs: float, *, since: float) -> None:
        """Set the clock by *theirs*, which was read at some moment since *since*, by the monotonic clock, and now.

        A clock that may be right as it is stays, so that it does not jump at each measurement.
        """
        now = self._inner.monotonic()
        uncertain = (now - since) / 2
        ahead = theirs - (now - uncertain)
        if self._ahead_seconds is None or abs(ahead - self._ahead_seconds) > uncertain:
            self._ahead_seconds = ahead
