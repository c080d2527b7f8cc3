"""What to do when a service ends: decisions only."""

from __future__ import annotations

import signal
from dataclasses import dataclass

#: Of ``gridwright.wire.process``: the settings cannot be used, and trying again cannot help.
EXIT_SETTINGS = 78
#: A service that ran so long was well; its next death starts a new count.
STEADY_SECONDS = 20.0
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again, after a while."""

    delay_seconds: float
    #: Deaths in a row, this one included.
    deaths: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop all that needs it: it cannot run."""


def after_exit(status: int, *, ran_seconds: float, deaths: int) -> Restart | GiveUp:
    """Decide about a service that ended with *status*, though nobody asked it to.

    The delay doubles with each death in a row (*deaths* so far), from a tenth of a second,
    as a killed service is awaited by builds, to ten, as one that cannot start should not
    take the machine.
    """
    if status == EXIT_SETTINGS:
        return GiveUp()
    deaths = 1 if ran_seconds >= STEADY_SECONDS else deaths + 1
    return Restart(min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(deaths - 1, 20)), deaths)


def describe_exit(status: int) -> str:
    """Say how a process ended; a negative *status* is the signal that ended it."""
    if status >= 0:
        return f"exit {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
