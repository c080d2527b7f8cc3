"""Small blobs and actions to work with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from google.protobuf.message import Message
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorageClient
from gridwright.wire.rpc import Channel

_BLOBS_PER_BATCH = 500
_TIMEOUT_SECONDS = 60.0


def digest_of(blob: bytes) -> pb.Digest:
    """Return the SHA-256 digest of *blob*, which every grid knows."""
    return pb.Digest(hash=hashlib.sha256(blob).hexdigest(), size_bytes=len(blob))


def encode(message: Message) -> bytes:
    """Return the bytes of *message*, the same each time."""
    return message.SerializeToString(deterministic=True)


async def upload(channel: Channel, instance: str, blobs: Sequence[bytes]) -> None:
    """Put small *blobs* into the CAS, in batches."""
    cas = ContentAddressableStorageClient(channel)
    for start in range(0, len(blobs), _BLOBS_PER_BATCH):
        request = pb.BatchUpdateBlobsRequest(
            instance_name=instance, requests=_entries(blobs[start:][:_BLOBS_PER_BATCH])
        )
        answer = await cas.batch_update_blobs(request, timeout=_TIMEOUT_SECONDS)
        for response in answer.responses:
            if response.status.code != code_pb2.OK:
                raise RuntimeError(f"the CAS refused a blob: {response.status.message}")


def _entries(blobs: Iterable[bytes]) -> list[pb.BatchUpdateBlobsRequest.Request]:
    return [pb.BatchUpdateBlobsRequest.Request(digest=digest_of(blob), data=blob) for blob in blobs]
