"""RequestMetadata: which tool, invocation and target a call belongs to (checklist HDR)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import CallMetadata
from gridwright.wire.rpc import Metadata

#: The header that holds a serialised RequestMetadata.
KEY = "build.bazel.remote.execution.v2.requestmetadata-bin"


def request_metadata(metadata: CallMetadata) -> pb.RequestMetadata:
    """Return what the caller said about itself; an empty message if nothing readable (HDR-02)."""
    sent = metadata.binary(KEY)
    if sent is None:
        return pb.RequestMetadata()
    try:
        return pb.RequestMetadata.FromString(sent)
    except DecodeError:
        return pb.RequestMetadata()


def metadata_of(message: pb.RequestMetadata) -> Metadata:
    """Return the headers that say *message*."""
    return ((KEY, message.SerializeToString()),)
