"""What time it is, so that tests can say so."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Protocol


class Clock(Protocol):
    """Two sorts of time; pass it to what needs the time instead of calling ``time`` there."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds since some moment, for durations: nobody sets it, and it stands still while the machine is asleep."""
        ...


class SystemClock(Clock):
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
