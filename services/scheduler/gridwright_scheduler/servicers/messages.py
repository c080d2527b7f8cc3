"""Operations as clients get them."""

from __future__ import annotations

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any

from gridwright.errors import InvalidRequest, OperationNotFound, UnknownInstance
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright_scheduler.database.records import Snapshot
from gridwright_scheduler.queue.names import OperationName, in_instance
from gridwright_scheduler.queue.responses import CANCELLED
from gridwright_scheduler.queue.states import ActionState, stage

_RESPONSE_TYPE = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse"
_METADATA_TYPE = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata"
_MAX_NAME_LENGTH = 1024
_INVOCATIONS = "/invocations/"


def operation_message(name: OperationName, snapshot: Snapshot, *, cancelled: bool = False) -> operations_pb2.Operation:
    """Return the operation *name* as it is now (checklist EXE-02 to EXE-06)."""
    done = cancelled or snapshot.state is ActionState.COMPLETED
    message = operations_pb2.Operation(name=name, done=done)
    metadata = action_metadata(snapshot)
    if done:
        metadata.stage = pb.ExecutionStage.COMPLETED
        # Packed by hand: the bytes are stored as they are sent.
        response = CANCELLED if cancelled else snapshot.response
        message.response.CopyFrom(Any(type_url=_RESPONSE_TYPE, value=response))
    message.metadata.CopyFrom(Any(type_url=_METADATA_TYPE, value=metadata.SerializeToString()))
    return message


def action_metadata(snapshot: Snapshot) -> pb.ExecuteOperationMetadata:
    """Return what clients, and bots in a trailer, are told about an action (checklist EMD-01 to EMD-04)."""
    metadata = pb.ExecuteOperationMetadata(
        stage=stage(snapshot.state),
        action_digest=digest_message(snapshot.digest),
        digest_function=int(snapshot.digest.function),  # type: ignore[arg-type]  # the same numbers
    )
    partial = metadata.partial_execution_metadata
    partial.MergeFromString(snapshot.progress)
    partial.worker = partial.worker or snapshot.worker
    partial.queued_timestamp.FromNanoseconds(int(snapshot.queued_at * 1e9))
    return metadata


def parse_operation_name(name: str, instances: Instances) -> tuple[Instance, OperationName]:
    """Return the instance of operation *name*, and its name in full.

    Raises:
        InvalidRequest: it is empty (checklist WEX-07).
        OperationNotFound: it names no instance of this grid.
    """
    if not name:
        raise InvalidRequest("the name of an operation is required", field="name")
    prefix, _, unique = name.rpartition("/")
    try:
        instance = instances[prefix]
    except UnknownInstance:
        raise OperationNotFound(name) from None
    if not unique or len(name) > _MAX_NAME_LENGTH or "\0" in name:
        raise OperationNotFound(name)
    return instance, OperationName(in_instance(instance.name, unique))


def parse_invocation_name(name: str, instances: Instances) -> tuple[Instance, str] | None:
    """Return the instance and the tool_invocation_id that ``INSTANCE/invocations/ID`` names; None: it is no such name.

    Of an instance whose own name ends in ``invocations`` the operations are meant.
    """
    prefix, delimiter, invocation = name.rpartition(_INVOCATIONS)
    at_start = not prefix and not delimiter and name.startswith(_INVOCATIONS[1:])
    if at_start:
        invocation = name.removeprefix(_INVOCATIONS[1:])
    if not (delimiter or at_start) or not invocation or len(name) > _MAX_NAME_LENGTH or "\0" in name:
        return None
    if "/" not in invocation and _is_instance(name.rpartition("/")[0], instances):
        return None
    try:
        return instances[prefix], invocation
    except UnknownInstance:
        return None


def _is_instance(name: str, instances: Instances) -> bool:
    try:
        return instances[name] is not None
    except UnknownInstance:
        return False
