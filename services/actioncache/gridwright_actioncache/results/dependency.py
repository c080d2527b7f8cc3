"""What this service lives on, and whether it answers."""

from __future__ import annotations

from gridwright.clock import Clock

_MAX_ERROR_CHARACTERS = 500


class DependencyHealth:
    """What was last heard of another service, for /status and the metrics.

    A pod that cannot reach its database stays ready, since no other pod could either; so
    somebody has to be able to see it.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        #: Calls that it answered, and those that it did not.
        self.successes = 0
        self.failures = 0
        self._last_error = ""
        #: Since when it has answered, or failed to, in Unix seconds; None: it was not asked yet.
        self._since: float | None = None
        #: Whether the last call was answered.
        self.is_up = True

    def __repr__(self) -> str:
        return f"<DependencyHealth {self.name}: {self.state}>"

    @property
    def state(self) -> str:
        """``ok``, ``failing``, or ``unknown`` before the first call."""
        if self._since is None:
            return "unknown"
        return "ok" if self.is_up else "failing"

    def succeeded(self) -> None:
        """Note a call that was answered."""
        self.successes += 1
        if self._since is None or not self.is_up:
            self._since = self._clock.now()
        self.is_up = True

    def failed(self, error: str) -> None:
        """Note a call that was not, because of *error*."""
        self.failures += 1
        self._last_error = error[:_MAX_ERROR_CHARACTERS]
        if self._since is None or self.is_up:
            self._since = self._clock.now()
        self.is_up = False

    def report(self) -> dict[str, object]:
        """Return the same for /status."""
        return {
            "state": self.state,
            "since_unix_seconds": self._since,
            "calls": self.successes + self.failures,
            "failures": self.failures,
            **({"last_error": self._last_error} if self._last_error else {}),
        }
