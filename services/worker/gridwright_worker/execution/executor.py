"""The interface of what turns an action into its result."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from gridwright.digest import DigestFunction
from gridwright.errors import DeadlineExceeded
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb


class ActionTimedOut(DeadlineExceeded):
    """The command did not end in time and was killed; *result* has what it left until then."""

    def __init__(self, timeout_seconds: float, result: pb.ActionResult) -> None:
        super().__init__(f"the action did not end within its timeout of {timeout_seconds:g} s and was killed")
        self.result = result


class Executor(Protocol):
    """Executes actions, one at a time."""

    @abstractmethod
    async def execute(self, action: pb.Action, function: DigestFunction) -> pb.ActionResult:
        """Execute *action*, whose digests are of *function*; all outputs are in the CAS when this returns.

        A command that fails, or cannot be started (exit code 127 or 126), is a result. When
        this returns or raises, no process of the action is left; cancelling kills them.

        Raises:
            MissingBlobs: naming the Command, Directories and files that the CAS does not hold.
            InvalidRequest: the documents do not make an action that can be run.
            FailedPrecondition: an output is not what it was declared to be, or the inputs are larger than the
                worker's cache.
            ActionTimedOut: with what there is of a result.
            Unavailable: this worker, or the CAS, cannot do it now; another may.
            ResourceExhausted: the CAS is full.
        """
        ...

    @abstractmethod
    async def close(self) -> None:
        """Give back what is held for the slot."""
        ...
