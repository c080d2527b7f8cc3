"""The directory of an action cache."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from pathlib import Path

from gridwright.digest import Digest
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_cli.ac.place import ActionCachePlace
from gridwright_cli.cas.digests import slices
from gridwright_cli.cas.directory import MaintenanceFailed, maintenance
from gridwright_cli.cas.progress import Report, Show
from gridwright_cli.exits import EXIT_FAILED

_PACKAGE = "gridwright_actioncache"
#: What fits onto the command line of one process.
_REMOVED_AT_ONCE = 1_000


class DirectoryPlace(ActionCachePlace):
    """Has a process work on the directory, beside the service or without it."""

    sees_outputs = False

    def __init__(self, path: Path, instance: str) -> None:
        self._path = path
        self._instance = instance

    def explain(self, digest: Digest) -> pb.ExplainResponse:
        return pb.ExplainResponse.FromString(self._answer("explain", [str(digest)], _show_nothing))

    def remove(self, digests: Iterable[Digest]) -> int:
        removed = 0
        for some in slices(digests, _REMOVED_AT_ONCE):
            self._answer("remove", list(map(str, some)), _show_nothing)
            removed += len(some)
        return removed

    def purge(self, what: pb.PurgeRequest, show: Show) -> pb.PurgeResponse:
        options = []
        for name in ("worker", "subject"):
            if value := getattr(what, name):
                options += [f"--{name}={value}"]
        for name in ("since", "until"):
            if what.HasField(name):
                options += [f"--{name}={getattr(what, name).ToMicroseconds() / 1e6}"]
        if what.dry_run:
            options.append("--dry-run")
        return pb.PurgeResponse.FromString(self._answer("purge", options, show))

    def _answer(self, command: str, arguments: Sequence[str], show: Show) -> bytes:
        """Return the message that the process answers with.

        Raises:
            MaintenanceFailed: it cannot.
        """
        options = [str(self._path), f"--instance={self._instance}", *arguments]
        answer: bytes | None = None
        with maintenance(command, options, show, package=_PACKAGE) as messages:
            for message in messages:
                match message:
                    case {"answer": str(text)}:
                        answer = b64decode(text)
        if answer is None:
            raise MaintenanceFailed("the process that works on the directory gave no answer", EXIT_FAILED)
        return answer


def _show_nothing(report: Report) -> None: ...
