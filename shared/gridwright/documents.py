"""What a Command and a Directory may say: one check for the scheduler, which refuses them early, and the worker,
which relies on it.

Lenient where clients are known to be careless (order and duplicates, checklist ACT-08,
ACT-13, ACT-16), strict where it is about security or where no worker could do anything.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence

from gridwright.digest import Digest
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: The node properties that outputs are reported with when asked for (checklist CAP-26, NOD-05).
OUTPUT_NODE_PROPERTIES = frozenset({"mtime", "unix_mode"})
#: Names of older protocols (``buildbox``), and BuildStream's mark of input directories: known, and left out of
#: results, as NOD-01 allows. Any other name is refused (ACT-20).
_TOLERATED_NODE_PROPERTIES = frozenset({"MTime", "UnixMode", "SubtreeReadOnly"})
#: What file systems take (NAME_MAX).
_MAX_NAME_BYTES = 255


def check_command(command: pb.Command) -> None:
    """Refuse a Command that no worker could, or should, run.

    Raises:
        InvalidRequest: naming the field (checklist ACT-04, ACT-10 to ACT-12, ACT-20, ACT-24).
    """
    if not command.arguments or not command.arguments[0]:
        raise InvalidRequest("the command has no arguments; the first one is the program", field="command.arguments")
    check_no_nul(command.arguments, field="command.arguments")
    for variable in command.environment_variables:
        check_no_nul((variable.name, variable.value), field="command.environment_variables")
        if not variable.name or "=" in variable.name:
            raise InvalidRequest(
                f"{variable.name!r} cannot be the name of a variable", field="command.environment_variables"
            )
    start = inside(command.working_directory, "", field="command.working_directory")
    for field in ("output_paths", "output_files", "output_directories"):
        for path in getattr(command, field):
            if path.endswith("/"):
                raise InvalidRequest(f"output path {path!r} ends in '/'", field=f"command.{field}")
            inside(path, start, field=f"command.{field}")
    for name in command.output_node_properties:
        if name not in OUTPUT_NODE_PROPERTIES | _TOLERATED_NODE_PROPERTIES:
            raise InvalidRequest(
                f"unknown node property {name!r}; known are {', '.join(sorted(OUTPUT_NODE_PROPERTIES))}",
                field="command.output_node_properties",
            )


def inside(path: str, start: str, field: str) -> str:
    """Return *path*, given from the directory *start*, from the input root and without dots; "" is the root itself.

    Raises:
        InvalidRequest: it is absolute, leaves the input root, or holds a NUL (checklist ACT-10 to ACT-12, ACT-24).
    """
    check_no_nul((path,), field=field)
    if path.startswith("/"):
        raise InvalidRequest(f"path {path!r} is absolute; paths are relative to the input root", field=field)
    normal = posixpath.normpath(posixpath.join(start, path))
    if normal == ".." or normal.startswith("../"):
        raise InvalidRequest(f"path {path!r} leads out of the input root", field=field)
    return "" if normal == "." else normal


def check_no_nul(texts: Iterable[str], field: str) -> None:
    """Refuse *texts* that no process can be given (checklist ACT-24).

    Raises:
        InvalidRequest: one holds a NUL.
    """
    if any("\0" in text for text in texts):
        raise InvalidRequest("a NUL character cannot be passed to a process", field=field)


def check_node_names(names: Sequence[str], digest: Digest) -> None:
    """Refuse the Directory *digest*, whose nodes have *names*, if one would lie elsewhere, or in another's place.

    Raises:
        InvalidRequest: a name is not one path segment, or occurs twice (checklist DIR-01, DIR-02).
    """
    for name in names:
        if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
            raise InvalidRequest(f"directory {digest} holds the name {name[:300]!r}, which is not one path segment")
    if len(set(names)) != len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise InvalidRequest(f"directory {digest} holds the name {twice!r} twice")
