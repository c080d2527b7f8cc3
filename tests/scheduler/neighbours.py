"""The services round the scheduler, small enough to be trusted, and with memories that tests read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.rpc import code_pb2

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, NotFound, Unavailable, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    ActionCache,
    ContentAddressableStorage,
)
from gridwright.wire.call import Call
from gridwright.wire.digests import digest_message

SHA256 = DigestFunction.SHA256


class FakeCas(ContentAddressableStorage):
    """A CAS for all instances, in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore(max_bytes=256 * 1024 * 1024)
        self.read_requests = 0

    async def keep(self, data: bytes, function: DigestFunction = SHA256) -> Digest:
        """Keep *data*; return its digest."""
        digest = function.digest(data)
        await self.store.put_many({digest: data})
        return digest

    async def find_missing_blobs(self, request: pb.FindMissingBlobsRequest, call: Call) -> pb.FindMissingBlobsResponse:
        digests = {_digest(one, request.digest_function) for one in request.blob_digests}
        missing = await self.store.missing(digests)
        return pb.FindMissingBlobsResponse(missing_blob_digests=map(digest_message, missing))

    async def batch_read_blobs(self, request: pb.BatchReadBlobsRequest, call: Call) -> pb.BatchReadBlobsResponse:
        self.read_requests += 1
        answer = pb.BatchReadBlobsResponse()
        found = await self.store.get_many([_digest(one, request.digest_function) for one in request.digests])
        for digest, blob in found.items():
            response = answer.responses.add(digest=digest_message(digest))
            if isinstance(blob, BlobNotFound):
                response.status.code = code_pb2.NOT_FOUND
            else:
                assert not isinstance(blob, GridwrightError)
                response.data = blob
        return answer

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        raise Unimplemented("tests put blobs into the store")

    def get_tree(self, request: pb.GetTreeRequest, call: Call) -> AsyncIterator[pb.GetTreeResponse]:
        raise Unimplemented("not needed")

    async def split_blob(self, request: pb.SplitBlobRequest, call: Call) -> pb.SplitBlobResponse:
        raise Unimplemented("not needed")

    async def splice_blob(self, request: pb.SpliceBlobRequest, call: Call) -> pb.SpliceBlobResponse:
        raise Unimplemented("not needed")


class FakeActionCache(ActionCache):
    """An action cache in memory, which can be told to fail."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, str], pb.ActionResult] = {}
        self.down = False
        self.lookups = 0

    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        self.lookups += 1
        self._check_up()
        try:
            return self.results[request.instance_name, request.action_digest.hash]
        except KeyError:
            raise NotFound("no such result") from None

    async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
        self._check_up()
        self.results[request.instance_name, request.action_digest.hash] = request.action_result
        return request.action_result

    def _check_up(self) -> None:
        if self.down:
            raise Unavailable("the action cache is down")


def _digest(message: pb.Digest, function: int) -> Digest:
    return Digest(DigestFunction(function), message.hash, message.size_bytes)
