"""ContentAddressableStorage: small blobs in bulk, and directory trees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from gridwright.auth.identity import Role
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, GridwrightError, InvalidRequest, Unimplemented
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorage
from gridwright.wire.call import Call
from gridwright.wire.digests import child_digest, digest_message, make_digest, read_digest, read_digests
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.statuses import ok_status, status_message
from gridwright_cas.servicers.tree_pages import tree_pages
from gridwright_cas.stores.trees import walk_tree


class CasServicer(ContentAddressableStorage):
    """Answers for the stores of all instances.

    Args:
        stores: the store of each storage domain.
    """

    def __init__(self, instances: Instances, stores: Mapping[str, BlobStore]) -> None:
        self._instances = instances
        self._stores = stores

    async def find_missing_blobs(self, request: pb.FindMissingBlobsRequest, call: Call) -> pb.FindMissingBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        digests = read_digests(request.blob_digests, instance, request.digest_function, field="blob_digests")
        missing = await self._stores[instance.storage].missing(set(digests))
        # Each once, in the order of the question.
        answer = [digest_message(digest) for digest in dict.fromkeys(digests) if digest in missing]
        return pb.FindMissingBlobsResponse(missing_blob_digests=answer)

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        instance = self._open(request.instance_name, call, Role.CAS_WRITER)
        _refuse_too_much(sum(len(entry.data) for entry in request.requests), "requests")
        blobs, verdicts = _readable_entries(request, instance)
        kept = await self._stores[instance.storage].put_many(blobs) if blobs else {}
        responses = []
        for entry, verdict in zip(request.requests, verdicts, strict=True):
            error = kept[verdict] if isinstance(verdict, Digest) else verdict
            status = ok_status() if error is None else status_message(error)
            responses.append(pb.BatchUpdateBlobsResponse.Response(digest=entry.digest, status=status))
        return pb.BatchUpdateBlobsResponse(responses=responses)

    async def batch_read_blobs(self, request: pb.BatchReadBlobsRequest, call: Call) -> pb.BatchReadBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        digests = read_digests(request.digests, instance, request.digest_function)
        _refuse_too_much(sum(digest.size_bytes for digest in digests), "digests")
        found = await self._stores[instance.storage].get_many(set(digests))
        responses = []
        for message, digest in zip(request.digests, digests, strict=True):
            blob = found[digest]
            if isinstance(blob, GridwrightError):
                response = pb.BatchReadBlobsResponse.Response(digest=message, status=status_message(blob))
            else:
                response = pb.BatchReadBlobsResponse.Response(digest=message, data=blob, status=ok_status())
            responses.append(response)
        return pb.BatchReadBlobsResponse(responses=responses)

    async def get_tree(self, request: pb.GetTreeRequest, call: Call) -> AsyncIterator[pb.GetTreeResponse]:
        instance = self._open(request.instance_name, call, Role.READER)
        root = read_digest(request.root_digest, instance, request.digest_function, field="root_digest")
        found = walk_tree(self._stores[instance.storage], root, _child_directory)
        async for page in tree_pages(found, request.page_size, request.page_token):
            yield page

    async def split_blob(self, request: pb.SplitBlobRequest, call: Call) -> pb.SplitBlobResponse:
        self._open(request.instance_name, call, Role.READER)
        raise Unimplemented("SplitBlob is not offered; read the blob as a whole")

    async def splice_blob(self, request: pb.SpliceBlobRequest, call: Call) -> pb.SpliceBlobResponse:
        self._open(request.instance_name, call, Role.CAS_WRITER)
        raise Unimplemented("SpliceBlob is not offered; upload the blob as a whole")

    def _open(self, name: str, call: Call, role: Role) -> Instance:
        instance = self._instances[name]
        call.identity.require(role)
        return instance


def _child_directory(message: pb.Digest, parent: Digest) -> Digest:
    return child_digest(message, parent, field=f"Directory {parent}: directories.digest")


def _refuse_too_much(size_bytes: int, field: str) -> None:
    if size_bytes > MAX_BATCH_BYTES:
        raise InvalidRequest(
            f"{size_bytes} bytes are more than the {MAX_BATCH_BYTES} of a batch; use ByteStream for large blobs",
            field=field,
        )


def _readable_entries(
    request: pb.BatchUpdateBlobsRequest, instance: Instance
) -> tuple[dict[Digest, bytes], Sequence[Digest | GridwrightError]]:
    """Return the blobs to keep, and for each entry its blob's digest, or what is wrong with the entry."""
    blobs: dict[Digest, bytes] = {}
    verdicts: list[Digest | GridwrightError] = []
    function: DigestFunction | None = None
    for index, entry in enumerate(request.requests):
        field = f"requests[{index}]"
        try:
            if entry.compressor != pb.Compressor.IDENTITY:
                raise InvalidRequest(f"{field}: this server takes batches uncompressed only", field=field)
            if function is None:
                digest = read_digest(entry.digest, instance, request.digest_function, field=f"{field}.digest")
                function = digest.function  # of all: one request, one function (checklist DIG-10)
            else:
                digest = make_digest(function, entry.digest.hash, entry.digest.size_bytes, field=f"{field}.digest")
            if blobs.setdefault(digest, entry.data) != entry.data:
                raise DigestMismatch(f"{field}: blob {digest} comes twice in this batch, with different bytes")
            verdicts.append(digest)
        except InvalidRequest as error:
            verdicts.append(error)
    return blobs, verdicts
