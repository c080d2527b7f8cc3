"""The CAS's RPCs as a plain client makes them: messages in, messages or a gRPC error out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc.aio import AioRpcError

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.digest import Digest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import QUERY_WRITE_STATUS, READ, WRITE
from gridwright.wire.digests import digest_message
from gridwright.wire.rpc import Method

M = TypeVar("M", bound=Message)
Headers = Sequence[tuple[str, str]]


class CasWire:
    """A channel with the message limits that clients have by default, and the RPCs of the CAS on it."""

    def __init__(self, channel: grpc.aio.Channel, address: str = "") -> None:
        self.channel = channel
        self.address = address

    async def call(self, method: Method[Any, M], request: Message, headers: Headers = ()) -> M:
        """Make a unary call."""
        call = self.channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        return await call(request, timeout=30, metadata=tuple(headers))

    async def find_missing(self, digests: Iterable[Digest], instance: str = "main", **fields: Any) -> list[pb.Digest]:
        request = pb.FindMissingBlobsRequest(
            instance_name=instance, blob_digests=map(digest_message, digests), **fields
        )
        return list((await self.call(rpc.FIND_MISSING_BLOBS, request)).missing_blob_digests)

    async def batch_update(
        self, entries: Iterable[tuple[Digest, bytes]], instance: str = "main", **fields: Any
    ) -> list[pb.BatchUpdateBlobsResponse.Response]:
        requests = [pb.BatchUpdateBlobsRequest.Request(digest=digest_message(one), data=data) for one, data in entries]
        return await self.batch_update_entries(requests, instance, **fields)

    async def batch_update_entries(
        self, requests: Iterable[pb.BatchUpdateBlobsRequest.Request], instance: str = "main", **fields: Any
    ) -> list[pb.BatchUpdateBlobsResponse.Response]:
        request = pb.BatchUpdateBlobsRequest(instance_name=instance, requests=requests, **fields)
        return list((await self.call(rpc.BATCH_UPDATE_BLOBS, request)).responses)

    async def batch_read(
        self, digests: Iterable[Digest], instance: str = "main", **fields: Any
    ) -> list[pb.BatchReadBlobsResponse.Response]:
        request = pb.BatchReadBlobsRequest(instance_name=instance, digests=map(digest_message, digests), **fields)
        return list((await self.call(rpc.BATCH_READ_BLOBS, request)).responses)

    async def get_tree(self, root: Digest, instance: str = "main", **fields: Any) -> list[pb.GetTreeResponse]:
        request = pb.GetTreeRequest(instance_name=instance, root_digest=digest_message(root), **fields)
        return await self.stream(rpc.GET_TREE, request)

    async def read(self, name: str, headers: Headers = (), **fields: Any) -> list[bytes]:
        """Return the data of each message."""
        responses = await self.stream(READ, bs.ReadRequest(resource_name=name, **fields), headers)
        return [response.data for response in responses]

    async def stream(self, method: Method[Any, M], request: Message, headers: Headers = ()) -> list[M]:
        """Make a call that streams its responses, and return them all."""
        call = self.channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return [response async for response in call(request, timeout=30, metadata=tuple(headers))]

    async def write(self, requests: Iterable[bs.WriteRequest], headers: Headers = ()) -> int:
        """Send *requests*, half-close, and return the committed size."""
        call = self.open_write(headers)
        try:
            for request in requests:
                await call.write(request)
            await call.done_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            pass  # the server has answered already
        return int((await call).committed_size)

    def open_write(self, headers: Headers = ()) -> Any:
        """Begin an upload and leave it to the test."""
        call = self.channel.stream_unary(WRITE.path, WRITE.request.SerializeToString, WRITE.response.FromString)
        return call(timeout=30, metadata=tuple(headers))

    async def query(self, name: str) -> tuple[int, bool]:
        answer = await self.call(QUERY_WRITE_STATUS, bs.QueryWriteStatusRequest(resource_name=name))
        return answer.committed_size, answer.complete


def write_requests(name: str, data: bytes, size: int = CHUNK_BYTES) -> list[bs.WriteRequest]:
    """Return the messages that upload *data*."""
    requests = [
        bs.WriteRequest(write_offset=start, data=data[start : start + size]) for start in range(0, len(data), size)
    ] or [bs.WriteRequest()]
    requests[0].resource_name = name
    requests[-1].finish_write = True
    return requests


async def failure(call: Awaitable[Any], code: grpc.StatusCode) -> status_pb2.Status:
    """Return the rich status that *call* fails with; code and text must agree in both places (checklist GRP-05)."""
    with pytest.raises(AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    trailers: dict[str, Any] = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (code.value[0], caught.value.details())
    return status


def detail(status: status_pb2.Status, kind: type[M]) -> M:
    """Return the one detail of *kind*."""
    messages = [kind() for _ in status.details]
    (found,) = [message for message, box in zip(messages, status.details, strict=True) if box.Unpack(message)]
    return found
