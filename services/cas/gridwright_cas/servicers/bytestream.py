"""ByteStream: one blob of any size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from gridwright.auth.identity import Role
from gridwright.blobs.store import BlobStore
from gridwright.errors import DeadlineExceeded, InvalidRequest, InvalidResourceName, OutOfRange
from gridwright.instances import Instances
from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.wire.call import Call
from gridwright.wire.resource_names import BlobName, parse_read_name, parse_write_name
from gridwright_cas.servicers.read_response import read_response

#: A proxy may route by this header, so it must tell the truth (checklist BSN-15).
_RESOURCE_NAME_HEADER = "build.bazel.remote.execution.v2.resource-name"
#: How long an upload, which holds room on the disk, may stand still.
_IDLE_SECONDS = 300.0
#: How long a client that has sent everything may take to say that this was all.
_END_SECONDS = 1.0
#: An upload of a blob that is there already is heard to its end if it is so short, and comes so quickly ...
_HEARD_BYTES = 4 * 1024 * 1024
#: ... because some C++ clients take an answer before their last message for a failure (BSW-13).
_HEARD_SECONDS = 0.25


class ByteStreamServicer(ByteStream):
    """Answers for the stores of all instances.

    An upload that breaks off is not kept: QueryWriteStatus says so, and clients begin again.

    Args:
        stores: the store of each storage domain.
    """

    def __init__(self, instances: Instances, stores: Mapping[str, BlobStore]) -> None:
        self._instances = instances
        self._stores = stores

    async def read(self, request: pb.ReadRequest, call: Call) -> AsyncIterator[pb.ReadResponse]:
        blob = parse_read_name(request.resource_name, self._instances)
        call.identity.require(Role.READER)
        _check(request.resource_name, blob, call)
        if not 0 <= request.read_offset <= blob.digest.size_bytes:
            raise OutOfRange(f"read_offset {request.read_offset} is not within blob {blob.digest}")
        if request.read_limit < 0:
            raise InvalidRequest("read_limit must not be negative", field="read_limit")
        chunks = self._store(blob).get(blob.digest, offset=request.read_offset, limit=request.read_limit or None)
        async for chunk in chunks:
            yield read_response(chunk)

    async def write(self, requests: AsyncIterator[pb.WriteRequest], call: Call) -> pb.WriteResponse:
        first = await anext(requests, None)
        if first is None:
            raise InvalidRequest("an upload needs a first message with its resource_name", field="resource_name")
        blob = parse_write_name(first.resource_name, self._instances)
        call.identity.require(Role.CAS_WRITER)
        _check(first.resource_name, blob, call)
        store = self._store(blob)
        if not await store.missing({blob.digest}):
            await _hear_to_the_end(first, requests, blob)
            return pb.WriteResponse(committed_size=blob.digest.size_bytes)
        try:
            await store.put(blob.digest, _uploaded(first, requests))
        except _LeftUnfinished:
            return pb.WriteResponse(committed_size=0)
        return pb.WriteResponse(committed_size=blob.digest.size_bytes)

    async def query_write_status(self, request: pb.QueryWriteStatusRequest, call: Call) -> pb.QueryWriteStatusResponse:
        blob = parse_write_name(request.resource_name, self._instances)
        call.identity.require(Role.READER)
        _check(request.resource_name, blob, call)
        if await self._store(blob).missing({blob.digest}):
            # Also for an upload never heard of: NOT_FOUND would end Bazel's upload (checklist BSQ-04).
            return pb.QueryWriteStatusResponse(committed_size=0, complete=False)
        return pb.QueryWriteStatusResponse(committed_size=blob.digest.size_bytes, complete=True)

    def _store(self, blob: BlobName) -> BlobStore:
        return self._stores[blob.instance.storage]


class _LeftUnfinished(Exception):
    """The client ended its upload without finish_write: what came is let go, and that is no error (BSW-08)."""


def _check(name: str, blob: BlobName, call: Call) -> None:
    header = call.metadata.text(_RESOURCE_NAME_HEADER)
    if header is not None and header != name:
        raise InvalidResourceName(name, f"the header {_RESOURCE_NAME_HEADER} names another resource")
    if blob.compressor != "identity":
        raise InvalidResourceName(name, f"the compressor {blob.compressor} is not offered; read and write blobs/")


async def _uploaded(first: pb.WriteRequest, requests: AsyncIterator[pb.WriteRequest]) -> AsyncIterator[bytes]:
    """Yield the bytes of an upload, once its messages have been checked (checklist BSW-01 to BSW-07).

    Whether they are too many, too few or wrong is for the store to find.

    Raises:
        InvalidRequest: the messages make no upload.
        _LeftUnfinished: they end without ``finish_write``.
    """
    message: pb.WriteRequest | None = first
    offset = 0
    while message is not None:
        if message.resource_name and message.resource_name != first.resource_name:
            raise InvalidRequest("resource_name changed during the upload", field="resource_name")
        if message.write_offset != offset:
            raise InvalidRequest(
                f"write_offset is {message.write_offset}, but {offset} bytes came so far", field="write_offset"
            )
        finished = message.finish_write
        if data := message.data:
            offset += len(data)
            # A message of some MiB is not kept while its bytes travel on.
            message = None
            yield data
        if finished:
            await _expect_end(requests)
            return
        message = await _next_message(requests)
    raise _LeftUnfinished


async def _next_message(requests: AsyncIterator[pb.WriteRequest]) -> pb.WriteRequest | None:
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(f"no message of this upload came for {_IDLE_SECONDS:.0f} s; upload it again") from None


async def _expect_end(requests: AsyncIterator[pb.WriteRequest]) -> None:
    try:
        async with asyncio.timeout(_END_SECONDS):
            if await anext(requests, None) is not None:
                raise InvalidRequest("a message came after finish_write", field="finish_write")
    except TimeoutError:
        return  # it waits for our answer before it ends its own side


async def _hear_to_the_end(first: pb.WriteRequest, requests: AsyncIterator[pb.WriteRequest], blob: BlobName) -> None:
    """Wait for the rest of a short upload whose answer is known already."""
    if first.finish_write or blob.digest.size_bytes > _HEARD_BYTES:
        return
    try:
        async with asyncio.timeout(_HEARD_SECONDS):
            async for message in requests:
                if message.finish_write:
                    return
    except TimeoutError:
        return
