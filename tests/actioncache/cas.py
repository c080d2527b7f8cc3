"""A CAS over gRPC, as far as the action cache asks one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.rpc import code_pb2, status_pb2

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorage
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.wire.call import Call
from gridwright.wire.serving import Servicer


class FakeCas:
    """Blobs in memory, and how often their absence was asked about."""

    def __init__(self) -> None:
        self.blobs = MemoryStore(max_bytes=10**9)
        self.lost: set[Digest] = set()
        self.questions = 0
        self.reads = 0

    @property
    def servicers(self) -> Sequence[Servicer]:
        return [_Storage(self), _Streams(self)]

    async def keep(self, data: bytes) -> Digest:
        digest = DigestFunction.SHA256.digest(data)
        await self.blobs.put_many({digest: data})
        return digest


class _Storage(ContentAddressableStorage):
    def __init__(self, cas: FakeCas) -> None:
        self._cas = cas

    async def find_missing_blobs(self, request: pb.FindMissingBlobsRequest, call: Call) -> pb.FindMissingBlobsResponse:
        self._cas.questions += 1
        function = DigestFunction(request.digest_function)
        digests = {Digest(function, one.hash, one.size_bytes) for one in request.blob_digests}
        missing = set(await self._cas.blobs.missing(digests)) | (digests & self._cas.lost)
        return pb.FindMissingBlobsResponse(
            missing_blob_digests=[pb.Digest(hash=one.hash, size_bytes=one.size_bytes) for one in missing]
        )

    async def batch_read_blobs(self, request: pb.BatchReadBlobsRequest, call: Call) -> pb.BatchReadBlobsResponse:
        self._cas.reads += 1
        function = DigestFunction(request.digest_function)
        response = pb.BatchReadBlobsResponse()
        for one in request.digests:
            digest = Digest(function, one.hash, one.size_bytes)
            found = (await self._cas.blobs.get_many([digest]))[digest]
            if isinstance(found, bytes):
                response.responses.add(digest=one, data=found, status=status_pb2.Status())
            else:
                response.responses.add(digest=one, status=status_pb2.Status(code=code_pb2.NOT_FOUND))
        return response

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        function = DigestFunction(request.digest_function)
        response = pb.BatchUpdateBlobsResponse()
        for one in request.requests:
            await self._cas.blobs.put_many({Digest(function, one.digest.hash, one.digest.size_bytes): one.data})
            response.responses.add(digest=one.digest, status=status_pb2.Status())
        return response

    def get_tree(self, request: pb.GetTreeRequest, call: Call) -> AsyncIterator[pb.GetTreeResponse]:
        raise Unimplemented("nor this")

    async def split_blob(self, request: pb.SplitBlobRequest, call: Call) -> pb.SplitBlobResponse:
        raise Unimplemented("nor this")

    async def splice_blob(self, request: pb.SpliceBlobRequest, call: Call) -> pb.SpliceBlobResponse:
        raise Unimplemented("nor this")


class _Streams(ByteStream):
    def __init__(self, cas: FakeCas) -> None:
        self._cas = cas

    async def read(self, request: bs.ReadRequest, call: Call) -> AsyncIterator[bs.ReadResponse]:
        hash_, size = request.resource_name.split("/")[-2:]
        digest = Digest(DigestFunction.SHA256, hash_, int(size))
        async for chunk in self._cas.blobs.get(digest, offset=request.read_offset):
            yield bs.ReadResponse(data=chunk)

    async def write(self, requests: AsyncIterator[bs.WriteRequest], call: Call) -> bs.WriteResponse:
        name, data = "", b""
        async for request in requests:
            name = name or request.resource_name
            data += request.data
        hash_, size = name.split("/")[-2:]
        await self._cas.blobs.put_many({Digest(DigestFunction.SHA256, hash_, int(size)): data})
        return bs.WriteResponse(committed_size=len(data))

    async def query_write_status(self, request: bs.QueryWriteStatusRequest, call: Call) -> bs.QueryWriteStatusResponse:
        raise Unimplemented("nor this")
