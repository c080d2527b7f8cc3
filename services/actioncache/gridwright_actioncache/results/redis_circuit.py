"""Whether a server that failed is asked again."""

from __future__ import annotations

_FIRST_SECONDS = 0.05
_MAX_SECONDS = 1.0


class Circuit:
    """Open since a call failed, until the server has shown that it answers.

    A dead Redis would cost every caller the whole time that it may take to answer; while the
    circuit is open they hear so at once, and one task asks whether it is back. Nothing in here
    waits or looks at a clock.
    """

    def __init__(self) -> None:
        #: Since when it is open, by a monotonic clock.
        self._open_since: float | None = None
        self._attempts = 0
        #: Why it was opened last.
        self.error = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody should call."""
        return self._open_since is not None

    def failed(self, error: str, now: float) -> bool:
        """Note that a call failed; return whether the circuit opened because of it."""
        opens = self._open_since is None
        if self._open_since is None:
            self._open_since = now
        self.error = error
        return opens

    def next_attempt_seconds(self) -> float:
        """Return how long to wait before the server is asked again whether it answers.

        It becomes longer with each time until a call has succeeded, also from one opening to
        the next: a server may answer the question and fail at its work.
        """
        seconds = min(_FIRST_SECONDS * 2.0**self._attempts, _MAX_SECONDS)
        self._attempts = min(self._attempts + 1, 10)
        return seconds

    def revived(self) -> None:
        """Note that the server answers again, so that it may be called."""
        self._open_since = None

    def succeeded(self) -> None:
        """Note that a call succeeded."""
        self._attempts = 0

    def open_seconds(self, now: float) -> float:
        """Return for how long it has been open."""
        return 0.0 if self._open_since is None else now - self._open_since
