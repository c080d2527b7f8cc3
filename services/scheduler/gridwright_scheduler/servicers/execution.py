"""build.bazel.remote.execution.v2.Execution."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from google.longrunning import operations_pb2

from gridwright.auth.identity import Role
from gridwright.errors import PermissionDenied, Unavailable
from gridwright.instances import Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import Execution
from gridwright.wire.call import Call
from gridwright.wire.digests import read_digest
from gridwright.wire.request_metadata import kept_metadata
from gridwright_scheduler.admission import Admission
from gridwright_scheduler.board import Board, Watch
from gridwright_scheduler.operation_finder import OperationFinder
from gridwright_scheduler.queue.names import ActionKey, OperationName, in_instance
from gridwright_scheduler.servicers.messages import operation_message, parse_operation_name


class ExecutionServicer(Execution):
    """Streams operations.

    A stream only looks at its operation: when the client hangs up, the operation goes on
    (checklist EXE-10), and WaitExecution looks at it again, also after a restart.

    Args:
        keepalive_seconds: a stream in which nothing changes repeats itself so often (EXE-30).
    """

    def __init__(
        self,
        instances: Instances,
        admission: Admission,
        finder: OperationFinder,
        board: Board,
        *,
        keepalive_seconds: float,
    ) -> None:
        self._instances = instances
        self._admission = admission
        self._finder = finder
        self._board = board
        self._keepalive_seconds = keepalive_seconds

    async def execute(self, request: pb.ExecuteRequest, call: Call) -> AsyncIterator[operations_pb2.Operation]:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.EXECUTOR)
        if not instance.execution:
            raise PermissionDenied(f"instance {instance.name!r} executes nothing, it only caches")
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        operation = OperationName(in_instance(instance.name, str(uuid.uuid4())))
        with self._board.watch(operation) as watch:
            told = kept_metadata(call.metadata)
            snapshot = await self._admission.admit(operation, ActionKey(instance.name, digest), request, told)
            if watch.bound_to is None:
                watch.see(snapshot)
            async for message in self._updates(watch):
                yield message

    async def wait_execution(
        self, request: pb.WaitExecutionRequest, call: Call
    ) -> AsyncIterator[operations_pb2.Operation]:
        _, operation = parse_operation_name(request.name, self._instances)
        call.identity.require(Role.EXECUTOR)
        with self._board.watch(operation) as watch:
            record = await self._finder.find(operation)
            self._board.bind(operation, record.snapshot)
            # What changed between the look and the watch would be missed otherwise.
            record = await self._finder.find(operation)
            watch.see(record.snapshot)
            watch.cancelled = watch.cancelled or record.cancelled
            async for message in self._updates(watch):
                yield message

    async def _updates(self, watch: Watch) -> AsyncIterator[operations_pb2.Operation]:
        """Yield the operation as it is, and again whenever it has changed, until it is done."""
        while True:
            done = watch.done
            watch.look()
            yield operation_message(watch.operation, watch.snapshot, cancelled=watch.cancelled)
            if done:
                return
            if not self._board.closed:
                await watch.changed(self._keepalive_seconds)
            if self._board.closed and not watch.done:
                raise Unavailable("the scheduler is restarting; the operation goes on, wait for it again")
            if watch.lost and not watch.done:
                raise Unavailable(
                    "the operation is lost, or was done so long ago that it is forgotten; execute it again"
                )
