"""ContentAddressableStorage: small blobs in bulk, and directory trees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from gridwright.auth.identity import Role
from gridwright.blobs.store import BlobStore
from gridwright.blobs.stored_frames import ZstdFrames
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, InvalidRequest, Unimplemented
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorage
from gridwright.wire.call import Call
from gridwright.wire.digests import child_digest, read_digest, read_digests
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.statuses import status_message
from gridwright.wire.upload_rights import require_upload_right
from gridwright_cas.servicers.batch_entries import read_entries, unpacked_bytes
from gridwright_cas.servicers.compression.unpacking import UnpackingRoom
from gridwright_cas.servicers.compression.whole_blobs import in_zstd
from gridwright_cas.servicers.missing_question import read_question
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
        self._unpacking = UnpackingRoom()

    async def find_missing_blobs(self, request: pb.FindMissingBlobsRequest, call: Call) -> pb.FindMissingBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        store = self._stores[instance.storage]
        if question := read_question(request, instance):
            fields = question.fields_of(await store.missing(question))
            return pb.FindMissingBlobsResponse.FromString(b"".join(fields))
        messages = list(request.blob_digests)
        digests = read_digests(messages, instance, request.digest_function, field="blob_digests")
        # Each once, in the order of the question.
        asked = dict(zip(digests, messages, strict=True))
        missing = await store.missing(asked.keys())
        answer = [message for digest, message in asked.items() if digest in missing] if missing else []
        return pb.FindMissingBlobsResponse(missing_blob_digests=answer)

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        instance = self._open(request.instance_name, call, Role.CAS_WRITER)
        entries = list(request.requests)
        # What comes over the wire counts, not what it unpacks to (checklist BUB-05).
        _refuse_too_much(sum([len(entry.data) for entry in entries]), "requests")
        async with self._unpacking.taken(unpacked_bytes(entries)):
            blobs, verdicts = await read_entries(entries, instance, request.digest_function)
            kept = await self._stores[instance.storage].put_many(blobs) if blobs else {}
        response = pb.BatchUpdateBlobsResponse()
        add = response.responses.add
        for entry, verdict in zip(entries, verdicts, strict=True):
            if isinstance(verdict, Digest):
                _begin(add(), verdict, kept[verdict])
            else:
                _begin(add(), entry.digest, verdict)
        return response

    async def batch_read_blobs(self, request: pb.BatchReadBlobsRequest, call: Call) -> pb.BatchReadBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        messages = list(request.digests)
        digests = read_digests(messages, instance, request.digest_function)
        _refuse_too_much(sum([digest.size_bytes for digest in digests]), "digests")
        store = self._stores[instance.storage]
        found: Mapping[Digest, bytes | ZstdFrames | GridwrightError]
        if pb.Compressor.ZSTD in request.acceptable_compressors:
            found = await in_zstd(await store.stored_frames.get_many(set(digests)))
        else:
            found = await store.get_many(set(digests))
        response = pb.BatchReadBlobsResponse()
        add = response.responses.add
        for message, digest in zip(messages, digests, strict=True):
            blob = found[digest]
            if isinstance(blob, GridwrightError):
                _begin(add(), message, blob)
                continue
            one = add()
            _begin(one, message, None)
            if isinstance(blob, ZstdFrames):
                one.data = blob.data
                one.compressor = pb.Compressor.ZSTD
            else:
                one.data = blob
        return response

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
        if role is Role.CAS_WRITER:
            require_upload_right(call, instance)
        else:
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


def _begin(
    response: pb.BatchUpdateBlobsResponse.Response | pb.BatchReadBlobsResponse.Response,
    asked: pb.Digest | Digest,
    error: GridwrightError | None,
) -> None:
    """Say of which blob *response* is, and how it went.

    Field by field: to make messages and give them to another one's constructor, which copies
    them, takes two to three times as long.
    """
    digest = response.digest
    digest.hash = asked.hash
    digest.size_bytes = asked.size_bytes
    if error is None:
        response.status.SetInParent()  # it is there, and its code is OK
    else:
        response.status.CopyFrom(status_message(error))
