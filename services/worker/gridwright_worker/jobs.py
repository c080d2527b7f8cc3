"""The leases that are being worked on, each in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog
from google.rpc import status_pb2

from gridwright.blobs.store import BlobStore
from gridwright.errors import GridwrightError, InternalError
from gridwright.instances import Instance
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.wire.statuses import ok_status, status_message
from gridwright_worker.execution.executor import ActionTimedOut
from gridwright_worker.leases import LeaseId
from gridwright_worker.payload import read_payload
from gridwright_worker.slots import Slots

log = structlog.get_logger(__name__)

#: Hears how a lease ended: its status, and the result if there is one.
OnCompleted = Callable[[LeaseId, status_pb2.Status, pb.ActionResult | None], None]


class Jobs:
    """Executes leases and says how each ended; one that is stopped ends without a word."""

    def __init__(self, slots: Slots, store: BlobStore, instance: Instance) -> None:
        self._slots = slots
        self._store = store
        self._instance = instance
        self._tasks: dict[LeaseId, asyncio.Task[None]] = {}
        #: Stopped, and not yet through with it.
        self._stopping: set[asyncio.Task[None]] = set()

    def start(
        self, lease: bots_pb2.Lease, operations: Sequence[pb.ExecuteOperationMetadata], on_completed: OnCompleted
    ) -> None:
        """Begin to execute *lease*, as soon as a slot is free."""
        lease_id = LeaseId(lease.id)
        task = asyncio.create_task(self._execute(lease, operations, on_completed), name=f"lease {lease_id}")
        self._tasks[lease_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(lease_id, None))

    def stop(self, lease_ids: Iterable[LeaseId]) -> None:
        """Kill what runs for these leases."""
        for lease_id in lease_ids:
            if task := self._tasks.pop(lease_id, None):
                log.info("lease_stopped", lease=lease_id)
                task.cancel()
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Kill all, and wait until nothing is left of it."""
        self.stop(list(self._tasks))
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def _execute(
        self, lease: bots_pb2.Lease, operations: Sequence[pb.ExecuteOperationMetadata], on_completed: OnCompleted
    ) -> None:
        status, result = await self._outcome(lease, operations)
        # Out of the way first: the scheduler may give the same lease again once it has heard.
        self._tasks.pop(LeaseId(lease.id), None)
        on_completed(LeaseId(lease.id), status, result)

    async def _outcome(
        self, lease: bots_pb2.Lease, operations: Sequence[pb.ExecuteOperationMetadata]
    ) -> tuple[status_pb2.Status, pb.ActionResult | None]:
        try:
            payload = await read_payload(lease, operations, self._instance, self._store)
            return ok_status(), await self._slots.execute(lease.id, payload)
        except ActionTimedOut as error:
            return status_message(error), error.result
        except GridwrightError as error:
            log.info("lease_failed", lease=lease.id, error=str(error), kind=type(error).__name__)
            return status_message(error), None
        except Exception:  # the outermost loop: a fault of ours must not end the worker
            log.exception("lease_failed", lease=lease.id)
            return status_message(InternalError("the worker failed; its log has the details")), None
