"""The interface of what runs a command in a prepared input root."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Run:
    """A command to run."""

    arguments: Sequence[str]
    #: All of the environment: the runner adds what a Command may leave out, PATH and TMPDIR, and nothing else.
    environment: Mapping[str, str]
    #: From the input root, "" for the root itself.
    working_directory: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    #: 128 plus the signal's number if a signal ended it; 127 or 126 if it could not be started.
    exit_code: int
    timed_out: bool
    wall_seconds: float
    #: Of all processes of the action.
    cpu_seconds: float
    max_resident_kib: int


class Runner(Protocol):
    """Runs commands in the workspace of one slot, one at a time.

    What a runner adds is a surrounding: none (``hosttools``), namespaces, another root file
    system. Standard output and error go to the files of the workspace, never to memory.
    """

    @abstractmethod
    async def run(self, run: Run) -> Ended:
        """Run a command to its end; when this returns or raises, no process of it is left.

        Cancelling kills the whole process tree at once.

        Raises:
            Unavailable: this machine, not the command, failed; it may work elsewhere.
        """
        ...

    @abstractmethod
    async def close(self) -> None:
        """Give back what is held for the slot."""
        ...
