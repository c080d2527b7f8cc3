"""How much of each property is looked at."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SHORT, _LONG = "fuzz", "long-fuzz"
#: Seconds in `make test`, some minutes in `make soak`.
_EXAMPLES = {_SHORT: 200, _LONG: 4_000}
for _name, _count in _EXAMPLES.items():
    settings.register_profile(
        _name,
        max_examples=_count,
        # Calls have deadlines of their own, and how long an example takes is the machine's business.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )
#: How long a client stands still: longer than a server may take for a pause, and as long as proxies wait.
_STALL_SECONDS = {_SHORT: 3.0, _LONG: 600.0}
_profile = _SHORT


def look_longer() -> None:
    """Have the modules that are imported from now on look at many more examples."""
    global _profile
    _profile = _LONG


def effort(*, share: float = 1.0, steps: int = 20) -> settings:
    """Return the settings of a property, whose examples are so much dearer (1/*share*) than a single call.

    *steps* are those of a state machine.
    """
    profile = settings.get_profile(_profile)
    return settings(profile, max_examples=max(1, int(profile.max_examples * share)), stateful_step_count=steps)


def stall_seconds() -> float:
    """Return how long clients stand still."""
    return _STALL_SECONDS[_profile]
