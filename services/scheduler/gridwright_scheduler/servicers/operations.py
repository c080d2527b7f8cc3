"""google.longrunning.Operations."""

from __future__ import annotations

import base64
import json
from functools import partial

from google.longrunning import operations_pb2 as pb
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Connection

from gridwright.auth.identity import Role
from gridwright.errors import InvalidRequest, NotFound, OperationNotFound, Unavailable, Unimplemented
from gridwright.instances import Instance, Instances
from gridwright.protos.google.longrunning.operations_rpc import Operations as OperationsService
from gridwright.wire.call import Call
from gridwright.wire.request_metadata import KEY as REQUEST_METADATA_KEY
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.operations import Operations, PageStart, forget_operation
from gridwright_scheduler.operation_filter import OperationFilter, parse_filter
from gridwright_scheduler.operation_finder import OperationFinder
from gridwright_scheduler.queue.names import OperationName
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.servicers.messages import operation_message, parse_invocation_name, parse_operation_name

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1_000
#: Clients accept messages of 4 MiB; the rest is for the next page's token and the envelope.
_MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024
#: Operations come with their results, of up to 8 MiB each: so few are read at a time.
_ROWS_PER_READ = 16
#: The tag and the length of an operation in the response.
_ENVELOPE_BYTES = 6
#: A token holds the name of an operation and a time.
_MAX_TOKEN_LENGTH = 16 * 1024
#: A client that names no time is answered after this long at the latest.
_MAX_WAIT_SECONDS = 60.0
_WAIT_MARGIN = 0.8
#: Operations of an invocation that one turn cancels.
_CANCELLED_AT_ONCE = 500
#: Bounds a call that cancels an invocation to which operations are added all the time.
_MAX_CANCELLED = 500_000


class OperationsServicer(OperationsService):
    """Shows, lists and cancels operations."""

    def __init__(
        self,
        instances: Instances,
        operations: Operations,
        finder: OperationFinder,
        queue: ActionQueue,
        board: Board,
    ) -> None:
        self._instances = instances
        self._operations = operations
        self._finder = finder
        self._queue = queue
        self._board = board

    async def get_operation(self, request: pb.GetOperationRequest, call: Call) -> pb.Operation:
        """Return an operation, and in a trailer the RequestMetadata of the call that began it (checklist HDR-03)."""
        _, name = parse_operation_name(request.name, self._instances)
        call.identity.require(Role.EXECUTOR)
        record = await self._finder.find(name)
        if record.request_metadata:
            call.add_trailer(REQUEST_METADATA_KEY, record.request_metadata)
        return operation_message(name, record.snapshot, cancelled=record.cancelled)

    async def list_operations(self, request: pb.ListOperationsRequest, call: Call) -> pb.ListOperationsResponse:
        """List the operations of an instance, oldest first.

        :func:`parse_filter` says what a filter is. Operations that the action cache answered are not listed. A page has
        fewer operations than asked for when these are large.
        """
        instance = self._instances[request.name]
        call.identity.require(Role.EXECUTOR)
        if request.return_partial_success:
            raise Unimplemented("partial lists are not offered (checklist OPS-11)")
        if not 0 <= request.page_size <= _MAX_PAGE_SIZE:
            raise InvalidRequest(f"page_size must be 0 to {_MAX_PAGE_SIZE}", field="page_size")
        size = request.page_size or _DEFAULT_PAGE_SIZE
        matching = parse_filter(request.filter, instance.name)
        after = _parse_token(request.page_token)
        return await self._page(instance.name, matching, after, size)

    async def cancel_operation(self, request: pb.CancelOperationRequest, call: Call) -> Empty:
        """Cancel an operation (checklist OPS-04 to OPS-08), or with ``INSTANCE/invocations/ID`` a whole invocation."""
        if (invocation := parse_invocation_name(request.name, self._instances)) is not None:
            call.identity.require(Role.EXECUTOR)
            await self._cancel_invocation(*invocation)
            return Empty()
        _, name = parse_operation_name(request.name, self._instances)
        call.identity.require(Role.EXECUTOR)
        record = await self._finder.find(name)
        if record.snapshot.state is not ActionState.COMPLETED and not record.cancelled:
            await self._queue.cancel(name)
        return Empty()

    async def delete_operation(self, request: pb.DeleteOperationRequest, call: Call) -> Empty:
        """Forget an operation, which does not cancel what it waits for (checklist OPS-09)."""
        _, name = parse_operation_name(request.name, self._instances)
        call.identity.require(Role.EXECUTOR)
        if not self._finder.forget_answered(name) and not await self._queue.do(partial(_forget, name)):
            raise OperationNotFound(name)
        return Empty()

    async def wait_operation(self, request: pb.WaitOperationRequest, call: Call) -> pb.Operation:
        """Return the operation when it is done, or as it is when the time is up (checklist OPS-12)."""
        _, name = parse_operation_name(request.name, self._instances)
        call.identity.require(Role.EXECUTOR)
        seconds = _MAX_WAIT_SECONDS
        if request.HasField("timeout"):
            seconds = min(seconds, max(0.0, request.timeout.ToNanoseconds() / 1e9))
        if (remaining := call.remaining_seconds()) is not None:
            seconds = min(seconds, remaining * _WAIT_MARGIN)
        with self._board.watch(name) as watch:
            record = await self._finder.find(name)
            self._board.bind(name, record.snapshot)
            record = await self._finder.find(name)
            watch.see(record.snapshot)
            watch.cancelled = watch.cancelled or record.cancelled
            await watch.finished(seconds, self._board)
            return operation_message(name, watch.snapshot, cancelled=watch.cancelled)

    async def _cancel_invocation(self, instance: Instance, invocation: str) -> None:
        if not await self._operations.knows_invocation(instance.name, invocation):
            raise NotFound(
                f"no operation of invocation {invocation[:200]!r} is known in instance {instance.name!r}; the id is "
                "the tool_invocation_id that its calls sent"
            )
        for _ in range(_MAX_CANCELLED // _CANCELLED_AT_ONCE):
            names = await self._operations.of_invocation(instance.name, invocation, limit=_CANCELLED_AT_ONCE)
            if not names:
                return
            await self._queue.cancel_all(names)
        raise Unavailable("more operations of the invocation keep coming; stop the client, and cancel again")

    async def _page(
        self, instance: str, matching: OperationFilter, after: PageStart | None, size: int
    ) -> pb.ListOperationsResponse:
        """Return at most *size* operations, and at least one if there is one, that fit in a message together."""
        page = pb.ListOperationsResponse()
        page_bytes = 0
        while True:
            # One more than asked for tells whether there is another page.
            limit = min(_ROWS_PER_READ, size + 1 - len(page.operations))
            records = await self._operations.page(instance, matching=matching, after=after, limit=limit)
            for record in records:
                message = operation_message(record.name, record.snapshot, cancelled=record.cancelled)
                page_bytes += message.ByteSize() + _ENVELOPE_BYTES
                full = len(page.operations) == size or page_bytes > _MAX_PAGE_BYTES
                if page.operations and full:
                    assert after is not None
                    page.next_page_token = _token(after)
                    return page
                page.operations.append(message)
                after = PageStart(record.created_at, record.name)
            if len(records) < limit:
                return page


def _forget(name: OperationName, connection: Connection) -> bool:
    return forget_operation(connection, name)


def _token(start: PageStart) -> str:
    return base64.urlsafe_b64encode(json.dumps(start).encode()).decode()


def _parse_token(token: str) -> PageStart | None:
    if not token:
        return None
    try:
        if len(token) > _MAX_TOKEN_LENGTH:
            raise ValueError
        created_at, name = json.loads(base64.urlsafe_b64decode(token))
        if "\0" in name:  # which PostgreSQL has no place for
            raise ValueError
        name.encode()
        return PageStart(float(created_at), name)
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest("page_token is not one that this service gave out", field="page_token") from None
