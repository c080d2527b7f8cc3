"""The process that works on a store's directory for us, and what it says meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from gridwright_cli.cas.progress import Report, Show
from gridwright_cli.exits import EXIT_FAILED, EXIT_INTERRUPTED

_PACKAGE = "gridwright_cas"
#: It ends between two steps, each of which is short.
_STOP_SECONDS = 30.0

#: One thing that the process says: a mapping with one key, which says what it is about.
Message = Mapping[str, Any]


class MaintenanceFailed(Exception):
    """The process could not do it; the text is its own, *status* the exit status for it."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@contextmanager
def maintenance(
    command: str, arguments: Sequence[str], show: Show, *, pass_fds: Sequence[int] = (), package: str = _PACKAGE
) -> Iterator[Iterator[Message]]:
    """Run a command of ``python -m gridwright_cas.maintenance``; give away what it says but for its progress.

    *package* is that of another service which keeps something in directories.

    The process is told to stop when the block ends early, and has ended when this returns.

    Raises:
        MaintenanceFailed: it could not do it; from the iterator, once all that it said before was heard.
    """
    if find_spec(package) is None:
        raise MaintenanceFailed(
            f"a directory can be worked on only where {package} is installed: pip install 'gridwright-cli[grid]'",
            EXIT_FAILED,
        )
    process = subprocess.Popen(
        [sys.executable, "-m", f"{package}.maintenance", command, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    with process:
        try:
            yield _messages(process, show)
        finally:
            _stop(process)


def _messages(process: subprocess.Popen[str], show: Show) -> Iterator[Message]:
    assert process.stdout is not None
    why = ""
    for line in process.stdout:
        message: Message = json.loads(line)
        match message:
            case {"progress": progress}:
                show(Report(progress["what"], progress["done"], progress["total"], progress["unit"]))
            case {"error": str(text)}:
                why = text
            case _:
                yield message
    status = process.wait(_STOP_SECONDS)
    if status in (EXIT_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        # What it says on purpose, it says with a status of ours.
        raise MaintenanceFailed(why or f"the process that works on the directory {how}", status if why else EXIT_FAILED)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
