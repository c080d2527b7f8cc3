"""What a lease asks for: an Action, and the digest function that its digests are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from gridwright.blobs.store import BlobStore, read_blob
from gridwright.digest import DigestFunction
from gridwright.errors import BlobNotFound, InternalError, InvalidRequest, MissingBlobs
from gridwright.instances import Instance
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.wire.digests import digest_function, read_digest
from gridwright.wire.rpc import Metadata

#: The trailer with an ExecuteOperationMetadata for each lease of an answer.
_KEY = "executeoperationmetadata-bin"
_FUNCTIONS = frozenset(map(int, DigestFunction))


class Payload(NamedTuple):
    """An action to execute."""

    action: pb.Action
    function: DigestFunction


def operations_in(trailers: Metadata) -> list[pb.ExecuteOperationMetadata]:
    """Return what an answer says about the operations behind its leases."""
    operations: list[pb.ExecuteOperationMetadata] = []
    for key, value in trailers:
        if key == _KEY and isinstance(value, bytes):
            try:
                operations.append(pb.ExecuteOperationMetadata.FromString(value))
            except DecodeError:
                continue  # the digest function is then told by the length of the hashes
    return operations


async def read_payload(
    lease: bots_pb2.Lease, operations: Sequence[pb.ExecuteOperationMetadata], instance: Instance, store: BlobStore
) -> Payload:
    """Return what *lease* asks for; BuildGrid may send the digest of an Action instead of its bytes.

    Raises:
        InvalidRequest: the bytes are not an Action.
        MissingBlobs: the Action is not in the CAS.
        InternalError: the payload is something else.
    """
    kind = lease.payload.TypeName()
    if kind == pb.Action.DESCRIPTOR.full_name:
        document = lease.payload.value
    elif kind == pb.Digest.DESCRIPTOR.full_name:
        message = pb.Digest()
        lease.payload.Unpack(message)
        digest = read_digest(message, instance, _named_function(message, operations))
        try:
            document = await read_blob(store, digest)
        except BlobNotFound:
            raise MissingBlobs([digest]) from None
    else:
        raise InternalError(f"unexpected payload type {lease.payload.type_url!r}")
    try:
        action = pb.Action.FromString(document)
    except DecodeError:
        raise InvalidRequest("the lease's payload is not an Action") from None
    return Payload(action, _function_of(document, operations) or _guess(action, instance))


def _function_of(document: bytes, operations: Iterable[pb.ExecuteOperationMetadata]) -> DigestFunction | None:
    """Return the function under which one of *operations* names the action with these bytes."""
    for operation in operations:
        if operation.digest_function not in _FUNCTIONS or operation.action_digest.size_bytes != len(document):
            continue
        function = DigestFunction(operation.digest_function)
        if function.digest(document).hash == operation.action_digest.hash:
            return function
    return None


def _named_function(message: pb.Digest, operations: Iterable[pb.ExecuteOperationMetadata]) -> int:
    return next((one.digest_function for one in operations if one.action_digest == message), 0)


def _guess(action: pb.Action, instance: Instance) -> DigestFunction:
    """Return the usual function for hashes of this length: schedulers that are not ours do not name it."""
    return digest_function(0, len(action.command_digest.hash), instance)
