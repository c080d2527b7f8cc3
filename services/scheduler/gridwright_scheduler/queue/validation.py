"""Whether an Action and its Command make sense, before a worker is bothered with them.

Lenient where clients are known to be careless (order and duplicates, checklist ACT-08,
ACT-13, ACT-16), strict where it is about security or where no worker could do anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: What clients ask for beside an output; what a worker does not know it leaves out (checklist NOD-01, NOD-04).
_NODE_PROPERTIES = frozenset({"mtime", "unix_mode", "MTime", "UnixMode", "SubtreeReadOnly"})
#: Properties that can have but one value (checklist PLAT-06).
_SINGLE_VALUED = frozenset({"OSFamily"})


def timeout_seconds(action: pb.Action, *, longest_seconds: float) -> float | None:
    """Return how long the action may run; None if it leaves that to the server (checklist POL-05, POL-08).

    Raises:
        InvalidRequest: it is negative, or longer than the server allows (POL-09, ERR-16).
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


def check_command(command: pb.Command) -> None:
    """Refuse a Command that no worker could, or should, run.

    Raises:
        InvalidRequest: naming the field (checklist ACT-04, ACT-10 to ACT-12, ACT-20, ACT-24).
    """
    if not command.arguments or not command.arguments[0]:
        raise InvalidRequest("the command has no arguments; the first one is the program", field="command.arguments")
    _check_no_nul("command.arguments", command.arguments)
    for variable in command.environment_variables:
        _check_no_nul("command.environment_variables", (variable.name, variable.value))
        if not variable.name or "=" in variable.name:
            raise InvalidRequest(
                f"{variable.name!r} cannot be the name of a variable", field="command.environment_variables"
            )
    depth = _depth(command.working_directory, 0, field="command.working_directory")
    for field in ("output_paths", "output_files", "output_directories"):
        for path in getattr(command, field):
            if path.endswith("/"):
                raise InvalidRequest(f"output path {path!r} ends in '/'", field=f"command.{field}")
            _depth(path, depth, field=f"command.{field}")
    for name in command.output_node_properties:
        if name not in _NODE_PROPERTIES:
            raise InvalidRequest(f"unknown node property {name!r}", field="command.output_node_properties")


def check_platform(action: pb.Action, command: pb.Command) -> None:
    """Refuse platform properties that contradict each other.

    Raises:
        InvalidRequest: a property that can have one value has several (checklist PLAT-06).
    """
    platform = action.platform if action.HasField("platform") else command.platform
    seen: dict[str, str] = {}
    for one in platform.properties:
        _check_no_nul("platform.properties", (one.name, one.value))
        if seen.setdefault(one.name, one.value) != one.value and one.name in _SINGLE_VALUED:
            raise InvalidRequest(f"the platform property {one.name} has two values", field="platform.properties")


def _depth(path: str, start: int, *, field: str) -> int:
    """Return how many directories below the input root *path* ends, seen from *start* below it.

    Raises:
        InvalidRequest: it is absolute, leaves the input root, or holds a NUL.
    """
    _check_no_nul(field, (path,))
    if path.startswith("/"):
        raise InvalidRequest(f"path {path!r} is absolute; paths are relative to the input root", field=field)
    depth = start
    for segment in path.split("/"):
        if segment == "..":
            depth -= 1
        elif segment not in ("", "."):
            depth += 1
        if depth < 0:
            raise InvalidRequest(f"path {path!r} leads out of the input root", field=field)
    return depth


def _check_no_nul(field: str, texts: Iterable[str]) -> None:
    if any("\0" in text for text in texts):
        raise InvalidRequest("a NUL character cannot be passed to a process", field=field)
