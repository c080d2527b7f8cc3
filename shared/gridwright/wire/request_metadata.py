"""RequestMetadata: which tool, invocation and target a call belongs to (checklist HDR)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import CallMetadata
from gridwright.wire.rpc import Metadata

#: The header that holds a serialised RequestMetadata.
KEY = "build.bazel.remote.execution.v2.requestmetadata-bin"
_MAX_KEPT_BYTES = 4 * 1024


def request_metadata(metadata: CallMetadata) -> pb.RequestMetadata:
    """Return what the caller said about itself; an empty message if nothing readable (HDR-02)."""
    sent = metadata.binary(KEY)
    if sent is None:
        return pb.RequestMetadata()
    try:
        return pb.RequestMetadata.FromString(sent)
    except DecodeError:
        return pb.RequestMetadata()


def kept_metadata(metadata: CallMetadata) -> bytes:
    """Return the RequestMetadata of a call as it was sent, to be shown to others later (HDR-03, HDR-04).

    Nothing if it is unreadable, or longer than a trailer can carry to clients that accept 8 KiB of them.
    """
    sent = metadata.binary(KEY) or b""
    if len(sent) > _MAX_KEPT_BYTES:
        return b""
    try:
        pb.RequestMetadata.FromString(sent)
    except DecodeError:
        return b""
    return sent


def metadata_of(message: pb.RequestMetadata) -> Metadata:
    """Return the headers that say *message*."""
    return ((KEY, message.SerializeToString()),)
