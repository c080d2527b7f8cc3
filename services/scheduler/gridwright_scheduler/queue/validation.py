"""Whether an Action makes sense to the queue; ``gridwright.documents`` has the same question of its Command."""

from __future__ import annotations

from gridwright.documents import check_no_nul
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.queue.property_rules import RETRY

#: Properties that can have but one value (checklist PLAT-06).
_SINGLE_VALUED = frozenset({"OSFamily"})
_NEVER = "never"


def timeout_seconds(action: pb.Action, *, longest_seconds: float) -> float | None:
    """Return how long the action may run; None if it leaves that to the server (checklist POL-05, POL-07).

    Raises:
        InvalidRequest: it is negative, or longer than the server allows (POL-08, ERR-16).
    """
    if not action.HasField("timeout"):
        return None
    seconds = action.timeout.seconds + action.timeout.nanos / 1e9
    if seconds < 0:
        raise InvalidRequest(f"the action's timeout of {seconds:g} s is negative", field="action.timeout")
    if seconds > longest_seconds:
        raise InvalidRequest(
            f"the action's timeout of {seconds:g} s is longer than the {longest_seconds:g} s that this grid allows",
            field="action.timeout",
        )
    return seconds or None


def check_platform(action: pb.Action, command: pb.Command) -> None:
    """Refuse platform properties that contradict each other.

    Raises:
        InvalidRequest: a property that can have one value has several (checklist PLAT-06).
    """
    platform = action.platform if action.HasField("platform") else command.platform
    seen: dict[str, str] = {}
    for one in platform.properties:
        check_no_nul((one.name, one.value), field="platform.properties")
        if seen.setdefault(one.name, one.value) != one.value and one.name in _SINGLE_VALUED:
            raise InvalidRequest(f"the platform property {one.name} has two values", field="platform.properties")


def no_retry(action: pb.Action, command: pb.Command) -> bool:
    """Return whether the action asks, by the property ``retry``, to be tried once at most.

    Raises:
        InvalidRequest: the property has a value that means nothing.
    """
    platform = action.platform if action.HasField("platform") else command.platform
    values = [one.value for one in platform.properties if one.name == RETRY]
    if any(value != _NEVER for value in values):
        raise InvalidRequest(f"the platform property {RETRY} is {_NEVER!r}, or left out", field="platform.properties")
    return bool(values)
