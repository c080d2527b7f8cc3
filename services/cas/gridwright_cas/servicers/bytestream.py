"""ByteStream: one blob of any size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from gridwright.auth.identity import Role
from gridwright.blobs.resumable import UploadName
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest, InvalidResourceName, OutOfRange
from gridwright.instances import Instances
from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.wire.call import Call
from gridwright.wire.process_memory import LargeStreams
from gridwright.wire.resource_names import IDENTITY, BlobName, parse_read_name, parse_write_name
from gridwright.wire.upload_rights import refuse_too_large, require_upload_right
from gridwright_cas.servicers.compression.compressors import BY_NAME
from gridwright_cas.servicers.compression.streams import compressed, decompressed
from gridwright_cas.servicers.reads import Reads
from gridwright_cas.servicers.upload_messages import LeftUnfinished, UploadMessages
from gridwright_cas.servicers.uploaded_bytes import ThereAlready, uploaded_bytes
from gridwright_cas.servicers.uploads import Uploads

#: A proxy may route by this header, so it must tell the truth (checklist BSN-15).
_RESOURCE_NAME_HEADER = "build.bazel.remote.execution.v2.resource-name"
#: An upload of a blob that is there already is heard to its end if it is so short, and comes so quickly ...
_HEARD_BYTES = 4 * 1024 * 1024
#: ... because some C++ clients take an answer before their last message for a failure (BSW-13).
_HEARD_SECONDS = 0.25
#: What a compressed upload that ended early has committed (BSW-12).
_ENDED_EARLY = -1
#: How the clients name themselves that compare what was committed with the size of the blob, compressed or not.
_COMPARES_SIZES = "grpc-go/"


class ByteStreamServicer(ByteStream):
    """Answers for the stores of all instances.

    Args:
        stores: the store of each storage domain.
        uploads: where uploads are kept until they are blobs; by default in *stores*, where these offer that.
        reads: bounds what reads take.
    """

    def __init__(
        self,
        instances: Instances,
        stores: Mapping[str, BlobStore],
        uploads: Uploads | None = None,
        reads: Reads | None = None,
    ) -> None:
        self._instances = instances
        self._stores = stores
        self._uploads = Uploads(stores) if uploads is None else uploads
        self._reads = reads or Reads()
        self._large = LargeStreams()

    async def read(self, request: pb.ReadRequest, call: Call) -> AsyncIterator[pb.ReadResponse]:
        blob = parse_read_name(request.resource_name, self._instances)
        call.identity.require(Role.READER)
        _check(request.resource_name, blob, call)
        if not 0 <= request.read_offset <= blob.digest.size_bytes:
            raise OutOfRange(f"read_offset {request.read_offset} is not within blob {blob.digest}")
        if request.read_limit < 0:
            raise InvalidRequest("read_limit must not be negative", field="read_limit")
        if blob.compressor == IDENTITY:
            chunks = self._store(blob).get(blob.digest, offset=request.read_offset, limit=request.read_limit or None)
        elif request.read_limit:
            raise InvalidRequest("a compressed blob is read to its end; leave read_limit out", field="read_limit")
        else:
            chunks = compressed(self._store(blob), blob.digest, request.read_offset, BY_NAME[blob.compressor])
        with self._large.one():
            async with aclosing(self._reads.messages(chunks, blob.digest.size_bytes)) as messages:
                async for message in messages:
                    yield message
                    del message

    async def write(self, requests: AsyncIterator[pb.WriteRequest], call: Call) -> pb.WriteResponse:
        first = await anext(requests, None)
        if first is None:
            raise InvalidRequest("an upload needs a first message with its resource_name", field="resource_name")
        blob = parse_write_name(first.resource_name, self._instances)
        require_upload_right(call, blob.instance)
        _check(first.resource_name, blob, call)
        refuse_too_large(blob.digest, blob.instance)
        if await self._is_there(blob):
            await _hear_to_the_end(first, requests, blob.digest)
            return _ended_early(blob, call)
        if first.write_offset < 0:
            raise InvalidRequest("write_offset must not be negative", field="write_offset")
        messages = UploadMessages(first, requests)
        del first  # which may carry some MiB
        return await self._keep(blob, messages, call)

    async def query_write_status(self, request: pb.QueryWriteStatusRequest, call: Call) -> pb.QueryWriteStatusResponse:
        blob = parse_write_name(request.resource_name, self._instances)
        call.identity.require(Role.READER)
        _check(request.resource_name, blob, call)
        if await self._is_there(blob):
            return pb.QueryWriteStatusResponse(committed_size=blob.digest.size_bytes, complete=True)
        # 0 also for an upload never heard of: NOT_FOUND would end Bazel's upload (checklist BSQ-04).
        committed_bytes = await self._uploads.committed_bytes(blob.instance.storage, _upload_name(blob))
        return pb.QueryWriteStatusResponse(committed_size=committed_bytes, complete=False)

    async def _keep(self, blob: BlobName, messages: UploadMessages, call: Call) -> pb.WriteResponse:
        domain, name, offset = blob.instance.storage, _upload_name(blob), messages.offset
        chunks = messages.chunks()
        if blob.compressor != IDENTITY:
            chunks = decompressed(chunks, BY_NAME[blob.compressor])
        try:
            with self._large.one():
                async with aclosing(uploaded_bytes(chunks, blob.digest, offset, self._store(blob))) as counted:
                    await self._uploads.put(domain, name, offset, counted)
        except LeftUnfinished:
            return pb.WriteResponse(committed_size=await self._uploads.committed_bytes(domain, name))
        except ThereAlready:
            await self._uploads.forget(domain, name)
            return _ended_early(blob, call)
        if blob.compressor == IDENTITY or _compares_sizes(call):
            return pb.WriteResponse(committed_size=blob.digest.size_bytes)
        return pb.WriteResponse(committed_size=messages.offset)

    async def _is_there(self, blob: BlobName) -> bool:
        return not await self._store(blob).missing({blob.digest})

    def _store(self, blob: BlobName) -> BlobStore:
        return self._stores[blob.instance.storage]


def _check(name: str, blob: BlobName, call: Call) -> None:
    header = call.metadata.text(_RESOURCE_NAME_HEADER)
    if header is not None and header != name:
        raise InvalidResourceName(name, f"the header {_RESOURCE_NAME_HEADER} names another resource")
    if blob.compressor != IDENTITY and blob.compressor not in BY_NAME:
        raise InvalidResourceName(
            name, f"the compressor {blob.compressor} is not offered, but {', '.join(BY_NAME)} are"
        )


def _upload_name(blob: BlobName) -> UploadName:
    return UploadName(blob.upload_id or "", blob.digest, "" if blob.compressor == IDENTITY else blob.compressor)


def _ended_early(blob: BlobName, call: Call) -> pb.WriteResponse:
    is_compressed = blob.compressor != IDENTITY and not _compares_sizes(call)
    return pb.WriteResponse(committed_size=_ENDED_EARLY if is_compressed else blob.digest.size_bytes)


def _compares_sizes(call: Call) -> bool:
    """Whether the client (reclient, siso) wants the blob's size also where it sent something else (BSW-14)."""
    return _COMPARES_SIZES in (call.metadata.text("user-agent") or "")


async def _hear_to_the_end(first: pb.WriteRequest, requests: AsyncIterator[pb.WriteRequest], digest: Digest) -> None:
    """Wait for the rest of a short upload whose answer is known already."""
    if first.finish_write or digest.size_bytes > _HEARD_BYTES:
        return
    try:
        async with asyncio.timeout(_HEARD_SECONDS):
            async for message in requests:
                if message.finish_write:
                    return
    except TimeoutError:
        return
